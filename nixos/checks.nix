# `nix flake check`. The package's own check phase runs the tests against a real redis-server.
{ pkgs, self }:

let
  inherit (pkgs) lib abukiks runCommand;

  rust =
    name: command:
    abukiks.overrideAttrs (old: {
      pname = "abukiks-${name}";
      nativeBuildInputs = old.nativeBuildInputs ++ [
        pkgs.clippy
        pkgs.rustfmt
      ];
      # An edit of these builds no program anew, so they are no part of its source.
      postPatch = old.postPatch + ''
        cp ${../clippy.toml} clippy.toml
        cp ${../rustfmt.toml} rustfmt.toml
      '';
      buildPhase = command;
      doCheck = false;
      installPhase = "touch $out";
      postInstall = "";
    });

  # The same build where all that must not matter is different.
  elsewhere = abukiks.overrideAttrs (old: {
    postUnpack = (old.postUnpack or "") + ''
      mkdir --parents another/much/longer
      mv "$sourceRoot" another/much/longer/folder
      sourceRoot=another/much/longer/folder
    '';
    preBuild = (old.preBuild or "") + ''
      export HOME=$NIX_BUILD_TOP/home USER=somebody-else TZ=Pacific/Kiritimati LC_ALL=C.UTF-8
      export NIX_BUILD_CORES=1
      umask 077
    '';
    doCheck = false;
  });

  documented = lib.evalModules {
    modules = [
      ./module.nix
      { _module.check = false; }
      # Of the rest of NixOS the options of Abukiks look at this one.
      { options.services.prometheus.enable = lib.mkEnableOption "Prometheus"; }
      { _module.args = { inherit pkgs; }; }
    ];
  };

  documentation = pkgs.nixosOptionsDoc {
    options.services = { inherit (documented.options.services) abukiks; };
    warningsAreErrors = true;
  };
in
{
  package = abukiks;
  static = pkgs.pkgsStatic.abukiks;
  image = pkgs.abukiks-image;
  inherit (abukiks.tests) version;

  clippy = rust "clippy" "cargo clippy --all-targets --offline -- --deny warnings";
  fmt = rust "fmt" "cargo fmt --check";

  nix =
    runCommand "abukiks-nix"
      {
        nativeBuildInputs = [
          pkgs.deadnix
          pkgs.nixfmt
          pkgs.statix
        ];
      }
      ''
        cp --recursive ${self}/flake.nix ${self}/nixos .
        nixfmt --check flake.nix $(find nixos -name '*.nix')
        statix check nixos
        deadnix --fail flake.nix nixos
        touch $out
      '';

  options = documentation.optionsCommonMark;

  reproducible = runCommand "abukiks-reproducible" { } ''
    for program in bin/abukiks libexec/abukiks/{check-redis,reset-count,show-count}; do
      cmp ${abukiks}/$program ${elsewhere}/$program
    done
    touch $out
  '';

  units = import ./tests/units.nix { inherit pkgs self; };
  assertions = import ./tests/assertions.nix { inherit pkgs self; };
}
//
  lib.mapAttrs' (deploy: host: lib.nameValuePair "host-${deploy}" host.config.system.build.toplevel)
    (
      lib.filterAttrs (
        _: host: host.pkgs.stdenv.hostPlatform.system == pkgs.stdenv.hostPlatform.system
      ) self.nixosConfigurations
    )
// import ./tests {
  inherit pkgs;
  module = self.nixosModules.default;
}
