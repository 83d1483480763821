# `nix flake check`. None of these is built anew for a commit that changes nothing of what it looks at:
# the program does not know the commit here, and no check sees the whole source.
{ pkgs, self }:

let
  inherit (pkgs) lib runCommand;
  inherit (lib) fileset;

  commit = "unknown";
  abukiks = pkgs.abukiks.override { inherit commit; };
  static = pkgs.pkgsStatic.abukiks.override { inherit commit; };

  # The module as the checks have it: with this program, and without a nixpkgs for each host.
  plain = self // {
    nixosModules = self.nixosModules // {
      default = {
        imports = [ self.nixosModules.default ];
        nixpkgs.pkgs = pkgs;
        services.abukiks.package = lib.mkDefault abukiks;
      };
    };
  };

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
      export HOME=$NIX_BUILD_TOP/home USER=another-user TZ=Pacific/Kiritimati LC_ALL=C.UTF-8
      export NIX_BUILD_CORES=1
      umask 077
    '';
  });

  # The examples, and the host that the template makes of a machine. All of them are evaluated; what
  # Abukiks adds to one, and the program's own check of its settings, are built.
  template = self.inputs.nixpkgs.lib.nixosSystem {
    modules = [
      plain.nixosModules.default
      ./examples/hardware.nix
      ./template/counter.nix
    ];
  };
  hosts = lib.filterAttrs (
    _: host: host.pkgs.stdenv.hostPlatform.system == pkgs.stdenv.hostPlatform.system
  ) (self.nixosConfigurations // { inherit template; });
  partsOf =
    host:
    let
      inherit (host.extendModules { modules = [ { services.abukiks.package = lib.mkForce abukiks; } ]; })
        config
        ;
    in
    builtins.seq config.system.build.toplevel.drvPath (
      [ config.environment.etc."systemd/system".source ] ++ config.system.checks
    );
in
{
  package = abukiks;
  inherit static;
  attached = pkgs.abukiks-attached.override { inherit abukiks; };
  image = pkgs.abukiks-image.override {
    abukiks = static;
    inherit commit;
    date = "19700101000000";
  };
  inherit (abukiks.tests) promises version;

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
        src = fileset.toSource {
          root = ../.;
          fileset = fileset.unions [
            ../flake.nix
            (fileset.fileFilter (file: file.hasExt "nix") ./.)
          ];
        };
      }
      ''
        cd $src
        nixfmt --check $(find . -name '*.nix')
        statix check .
        deadnix --fail .
        touch $out
      '';

  reproducible = runCommand "abukiks-reproducible" { } ''
    for program in bin/abukiks libexec/abukiks/{check-redis,reset-count,show-count,top}; do
      cmp ${abukiks}/$program ${elsewhere}/$program
    done
    touch $out
  '';

  docs = import ./docs.nix { inherit pkgs; };
  units = import ./tests/units.nix {
    inherit pkgs;
    self = plain;
  };
  assertions = import ./tests/assertions.nix {
    inherit pkgs;
    self = plain;
  };
  hosts = runCommand "abukiks-hosts" {
    parts = lib.concatMap partsOf (lib.attrValues hosts);
  } "touch $out";
}
