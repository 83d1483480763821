# Stands for a machine's own configuration.nix and hardware-configuration.nix, which know its disks, boot
# loader, users and the way in. Put those in the place of this file.
{
  boot.loader.grub.device = "/dev/sda";
  fileSystems."/" = {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
  };

  services.openssh.enable = true;
  users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 (a key of your own)" ];

  system.stateVersion = "26.05";
}
