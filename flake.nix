{
  description = "Abukiks, a twelve-factor visitor counter: the model service for Rust, Nix and systemd";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      linux = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      darwin = [
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forSystems =
        systems: outputs:
        lib.genAttrs systems (
          system: outputs (nixpkgs.legacyPackages.${system}.extend self.overlays.default)
        );
      forLinux = forSystems linux;
      forAll = forSystems (linux ++ darwin);
    in
    {
      overlays.default = import ./nixos/overlay.nix {
        # All that a build learns about its source besides the source itself.
        commit = self.rev or self.dirtyRev or "unknown";
        date = self.lastModifiedDate or "19700101000000";
      };

      packages =
        lib.recursiveUpdate
          (forAll (pkgs: {
            default = pkgs.abukiks;
            inherit (pkgs) abukiks;
          }))
          (
            forLinux (pkgs: {
              abukiks-static = pkgs.pkgsStatic.abukiks;
              oci-image = pkgs.abukiks-image;
            })
          );

      apps = forAll (pkgs: import ./nixos/apps.nix { inherit pkgs; });

      checks = forLinux (pkgs: import ./nixos/checks.nix { inherit pkgs self; });

      devShells = forAll (pkgs: {
        default = pkgs.callPackage ./nixos/shell.nix { };
      });

      formatter = forAll (pkgs: pkgs.nixfmt-tree);

      nixosModules.default =
        { pkgs, ... }:
        {
          imports = [ ./nixos/module.nix ];
          services.abukiks.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.default;
        };

      # One host in two deploys (factor X): the same code with other settings.
      nixosConfigurations = lib.genAttrs [ "staging" "production" ] (
        deploy:
        lib.nixosSystem {
          system = "x86_64-linux";
          modules = [
            self.nixosModules.default
            ./nixos/examples/host.nix
            ./nixos/examples/${deploy}.nix
          ];
        }
      );

      templates.default = {
        path = ./nixos/template;
        description = "A NixOS host that runs Abukiks";
      };
    };
}
