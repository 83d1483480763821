{
  description = "A host that runs Abukiks";

  inputs = {
    abukiks.url = "github:abukiks/abukiks";
    # The same packages that Abukiks is tested with.
    nixpkgs.follows = "abukiks/nixpkgs";
  };

  outputs =
    { abukiks, nixpkgs, ... }:
    {
      # nixos-rebuild switch --flake .#counter
      nixosConfigurations.counter = nixpkgs.lib.nixosSystem {
        modules = [
          abukiks.nixosModules.default
          ./configuration.nix
          # ./hardware-configuration.nix, made by nixos-generate-config
        ];
      };
    };
}
