{
  description = "A host that runs Abukiks";

  inputs = {
    # The release that the machine runs: `nixos-version` prints it.
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    abukiks.url = "github:abukiks/abukiks";
  };

  outputs =
    { abukiks, nixpkgs, ... }:
    let
      # The machine as it is, with its boot loader, users and sshd.
      machine =
        file:
        if builtins.pathExists ./${file} then
          ./${file}
        else
          throw "Copy configuration.nix and hardware-configuration.nix from /etc/nixos to the folder of this flake.nix; in a git repository also `git add` them.";
    in
    {
      # nixos-rebuild switch --flake .#counter
      nixosConfigurations.counter = nixpkgs.lib.nixosSystem {
        modules = [
          (machine "hardware-configuration.nix")
          (machine "configuration.nix")
          abukiks.nixosModules.default
          ./counter.nix
        ];
      };
    };
}
