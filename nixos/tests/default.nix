# Tests of whole systems in virtual machines. `nix build .#checks.x86_64-linux.vm-switch` runs one.
{ pkgs, module }:

let
  inherit (pkgs) lib;
  tests = [
    "admin"
    "balancer"
    "basics"
    "hosts"
    "outage"
    "settings"
    "switch"
  ];
in
lib.listToAttrs (
  map (
    name:
    lib.nameValuePair "vm-${name}" (
      pkgs.testers.runNixOSTest {
        name = "abukiks-${name}";
        imports = [ ./${name}.nix ];
        defaults.imports = [ module ];
      }
    )
  ) tests
)
