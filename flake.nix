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

      # All that a build learns about its source besides the source itself.
      commit = self.rev or self.dirtyRev or "unknown";
      date = self.lastModifiedDate or "19700101000000";

      # One nixpkgs for each system: packages, checks and example hosts share it.
      pkgsFor = lib.genAttrs (linux ++ darwin) (
        system: nixpkgs.legacyPackages.${system}.extend self.overlays.default
      );
      forSystems = systems: outputs: lib.genAttrs systems (system: outputs pkgsFor.${system});
      forLinux = forSystems linux;
      forAll = forSystems (linux ++ darwin);
    in
    {
      overlays.default = import ./nixos/overlay.nix { inherit commit date; };

      packages =
        lib.recursiveUpdate
          (forAll (pkgs: {
            default = pkgs.abukiks;
            inherit (pkgs) abukiks;
          }))
          (
            forLinux (
              pkgs:
              let
                inherit (self.checks.${pkgs.stdenv.hostPlatform.system}) docs units;
              in
              {
                inherit (pkgs) abukiks-attached;
                abukiks-static = pkgs.pkgsStatic.abukiks;
                oci-image = pkgs.abukiks-image;

                # What docs/nixos.md and nixos/tests/units/*.units are to be.
                docs = docs.page;
                unit-trees = units.trees;

                # All of them, or one: `nix build .#vm-tests.switch`. They need KVM, so they are no checks.
                vm-tests = import ./nixos/tests {
                  inherit pkgs;
                  module = self.nixosModules.default;
                };
              }
              // lib.optionalAttrs (pkgs.stdenv.hostPlatform.system == "x86_64-linux") {
                oci-image-arm64 = pkgs.pkgsCross.aarch64-multiplatform.abukiks-image;
              }
            )
          );

      apps = forAll (pkgs: import ./nixos/apps.nix { inherit pkgs; });

      checks = forLinux (pkgs: import ./nixos/checks.nix { inherit pkgs self; });

      devShells = forAll (pkgs: {
        default = pkgs.callPackage ./nixos/shell.nix { };
      });

      formatter = forAll (pkgs: pkgs.nixfmt-tree);

      nixosModules = {
        default = self.nixosModules.abukiks;

        abukiks = rec {
          # The module system tells modules apart by the key; messages name the file.
          key = "${self.outPath}/flake.nix#nixosModules.abukiks";
          _file = key;
          imports = [
            ./nixos/module.nix
            (
              { pkgs, ... }:
              {
                # The host's own packages build it, be they overlaid or cross-compiled. Weaker than a
                # host's mkDefault, stronger than the default of the option.
                services.abukiks.package = lib.mkOverride 1400 (
                  pkgs.abukiks or (pkgs.callPackage ./nixos/package.nix { inherit commit; })
                );
              }
            )
          ];
        };
      };

      nixosConfigurations =
        lib.mapAttrs
          (
            name: modules:
            lib.nixosSystem {
              modules = [
                self.nixosModules.default
                ./nixos/examples/hardware.nix
                {
                  networking.hostName = name;
                  nixpkgs.pkgs = pkgsFor.x86_64-linux;
                }
              ]
              ++ modules;
            }
          )
          (
            # One host in two deploys (factor X): the same code with other settings.
            lib.genAttrs [ "staging" "production" ] (deploy: [
              ./nixos/examples/host.nix
              ./nixos/examples/${deploy}.nix
            ])
            # Three hosts that serve together.
            // lib.mapAttrs (_: lib.singleton) (import ./nixos/examples/cluster.nix)
          );

      templates.default = {
        path = ./nixos/template;
        description = "A NixOS host that runs Abukiks";
        welcomeText = ''
          In /etc/nixos this is all; elsewhere copy configuration.nix and hardware-configuration.nix from
          there first. Then: `nixos-rebuild switch --flake .#counter`
        '';
      };
    };
}
