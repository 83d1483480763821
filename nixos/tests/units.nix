# The units that hosts get, against the golden ones in ./units: a change of them is meant, or it is a
# mistake. `make test` boots the golden ones. `nix build .#unit-trees` makes them anew. Those of Redis are
# nixpkgs' own: they are kept for the boot, and not compared.
{ pkgs, self }:

let
  inherit (pkgs) lib;

  # What a host has beside units, for the tests to set up as NixOS would.
  besides = services: {
    nginx = lib.optionalAttrs services.abukiks.nginx.enable {
      upstream = { inherit (services.nginx.upstreams.abukiks) extraConfig servers; };
      locations = lib.mapAttrs (_: location: {
        inherit (location) proxyPass return extraConfig;
      }) services.nginx.virtualHosts.${services.abukiks.nginx.virtualHost}.locations;
    };
    scrape_configs = map (job: {
      inherit (job) job_name;
      static_configs = map (group: { inherit (group) targets; }) job.static_configs;
    }) services.prometheus.scrapeConfigs;
  };

  treeOf =
    file:
    let
      name = lib.removeSuffix ".nix" (baseNameOf file);
      host = self.inputs.nixpkgs.lib.nixosSystem {
        inherit (pkgs.stdenv.hostPlatform) system;
        modules = [
          self.nixosModules.default
          file
          {
            boot.isContainer = true;
            system.stateVersion = "26.05";
            # What NixOS gives to every service, such as its locales.
            systemd.globalEnvironment = lib.mkForce { };
          }
        ];
      };
      inherit (host.config) environment services;
    in
    ''
      units=${environment.etc."systemd/system".source}
      ! [[ ${name} =~ local|server ]] || sh ${./tree.sh} redis $units > $out/${name}.redis
      {
        sh ${./tree.sh} abukiks $units
        ${lib.optionalString (services.abukiks.nginx.enable || services.prometheus.enable) ''
          echo '# besides.json'
          echo ${lib.escapeShellArg (builtins.toJSON (besides services))} | sed 's|/nix/store/[0-9a-z]*-|/nix/store/|g'
        ''}
      } > $out/${name}.units
    '';

  hosts = lib.fileset.toList (lib.fileset.fileFilter (file: file.hasExt "nix") ./units);
  trees = pkgs.runCommand "abukiks-unit-trees" { } ''
    mkdir $out
    ${lib.concatMapStrings treeOf hosts}
  '';
in
pkgs.runCommand "abukiks-units" { passthru = { inherit trees; }; } ''
  diff --unified --recursive --exclude='*.nix' --exclude='*.redis' ${./units} ${trees}
  touch $out
''
