# The drop-ins that a host gets, against units.golden: a change of them is meant, or it is a mistake.
{ pkgs, self }:

let
  inherit (pkgs) lib;
  host = self.inputs.nixpkgs.lib.nixosSystem {
    inherit (pkgs.stdenv.hostPlatform) system;
    modules = [
      self.nixosModules.default
      ./units-host.nix
      {
        boot.isContainer = true;
        system.stateVersion = "26.05";
        # What NixOS gives to every service, such as its locales.
        systemd.globalEnvironment = lib.mkForce { };
      }
    ];
  };
  # All but the drop-in with a PATH, which is different with each nixpkgs.
  units = lib.filterAttrs (
    name: _: lib.hasPrefix "abukiks" name && !lib.hasPrefix "abukiks-admin" name
  ) host.config.systemd.units;
  # NixOS makes links of what an [Install] section would say.
  show =
    name: unit:
    "# ${name}.d/overrides.conf\n${lib.head (lib.splitString "[Install]" unit.text)}\n"
    + lib.concatMapStrings (target: "# wanted by ${target}\n") unit.wantedBy;
in
pkgs.runCommand "abukiks-units"
  {
    text = lib.concatStrings (lib.mapAttrsToList show units);
    passAsFile = [ "text" ];
  }
  ''
    # Blank lines mean nothing in a unit.
    grep --invert-match '^$' "$textPath" | diff --unified ${./units.golden} -
    touch $out
  ''
