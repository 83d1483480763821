# Tests of whole systems in virtual machines: all of them as one derivation, and each by its name.
{ pkgs, module }:

let
  inherit (pkgs) lib;

  names = [
    "admin"
    "balancer"
    "basics"
    "hosts"
    "outage"
    "settings"
    "switch"
  ];

  tests = lib.genAttrs names (
    name:
    pkgs.testers.runNixOSTest {
      name = "abukiks-${name}";
      imports = [ ./${name}.nix ];
      defaults = {
        imports = [ module ];
        # A machine that is slow, as emulated or shared ones are, loses no visitor.
        virtualisation.cores = 2;
        services.abukiks = {
          settings.REDIS_TIMEOUT = lib.mkDefault "30s";
          # The same for all commits.
          package = lib.mkDefault (pkgs.abukiks.override { commit = "unknown"; });
        };
      };
    }
  );
in
lib.extendDerivation true tests (pkgs.linkFarm "abukiks-vm-tests" tests)
