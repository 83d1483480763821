# Abukiks on a NixOS host: instances `abukiks@PORT` of the unit files in ../systemd, which the package
# brings. This adds drop-ins to them and nothing else, so the units are the same on every system.
#
# systemd merges the drop-ins of abukiks@.service.d and abukiks@5000.service.d in the order of their
# file names, and of two with one name it reads only that of the instance. So each has its own name:
#   10-redis-tcp.conf  of all instances: Redis is reached by TCP
#   overrides.conf     of all instances: the settings here, and what the host adds to `abukiks@`
#   settings.conf      of one instance: what it has of its own, over the others
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:

let
  cfg = config.services.abukiks;
  inherit (lib)
    mkIf
    mkOption
    optional
    optionalAttrs
    types
    ;

  instances = lib.filterAttrs (_: instance: instance.enable) cfg.instances;
  ports = lib.attrNames instances;
  eagerPorts = lib.filter (port: instances.${port}.startMode == "eager") ports;
  isPort = port: builtins.match "[1-9][0-9]{0,4}" port != null && lib.toInt port <= 65535;

  # Text in one line.
  line = types.strMatching "[^[:cntrl:]]+";
  settingsType = types.submodule { options = import ./settings.nix { inherit lib; }; };

  given = lib.filterAttrs (_: value: value != null);
  render = value: if lib.isBool value then (if value then "on" else "off") else toString value;

  # systemd expands %-specifiers in the value of a variable; only %d, the folder of credentials, is meant.
  escapeSpecifiers =
    value:
    if lib.hasPrefix "%d/" value then
      "%d/" + escapeSpecifiers (lib.removePrefix "%d/" value)
    else
      lib.replaceStrings [ "%" ] [ "%%" ] value;
  inUnit = lib.mapAttrs (_: escapeSpecifiers);

  localServer = if cfg.redis.createLocally then "abukiks" else cfg.redis.server;
  server =
    config.services.redis.servers.${localServer} or {
      enable = false;
      unixSocket = null;
      group = null;
    };
  serverUnit = if localServer == "" then "redis.service" else "redis-${localServer}.service";
  redisUrl = if localServer != null then "unix://${toString server.unixSocket}" else cfg.redis.url;

  # Credentials of these names are files that a setting names.
  credentialSettings = {
    redis-ca = "REDIS_CA_FILE";
    redis-cert = "REDIS_CERT_FILE";
    redis-key = "REDIS_KEY_FILE";
  };
  environmentOf =
    source:
    lib.mapAttrs' (name: variable: lib.nameValuePair variable "%d/${name}") (
      lib.filterAttrs (name: _: source.credentials ? ${name}) credentialSettings
    )
    // lib.mapAttrs (_: render) (given source.settings)
    // source.extraEnvironment;

  # Where the whole host, or one instance, says that Redis is.
  redisSourcesOf =
    source:
    optional (source.credentials ? redis-url) "credentials.redis-url"
    ++ map (name: "settings.${name}") (
      lib.filter (name: source.settings.${name} != null) redisVariables
    )
    ++ map (name: "extraEnvironment.${name}") (
      lib.filter (name: source.extraEnvironment ? ${name}) redisVariables
    );
  redisVariables = [
    "REDIS_URL"
    "REDIS_URL_FILE"
  ];
  redisSources =
    optional cfg.redis.createLocally "redis.createLocally"
    ++ optional (cfg.redis.server != null) "redis.server"
    ++ optional (cfg.redis.url != null) "redis.url"
    ++ redisSourcesOf cfg;
  hasOwnRedis = instance: redisSourcesOf instance != [ ];

  common = optionalAttrs (redisUrl != null) { REDIS_URL = redisUrl; } // environmentOf cfg;
  # An empty variable counts as absent: of an instance with a Redis of its own, that of all is taken away.
  ownOf =
    instance:
    optionalAttrs (hasOwnRedis instance) (
      lib.mapAttrs (_: _: "") (lib.filterAttrs (name: _: lib.elem name redisVariables) common)
    )
    // environmentOf instance;

  # Factor V: a release is a build together with its configuration, and has an id of its own.
  releaseOf =
    environment:
    "${lib.getVersion cfg.package}-${
      builtins.substring 0 12 (
        builtins.hashString "sha256" (
          builtins.toJSON [
            (builtins.unsafeDiscardStringContext cfg.package.outPath)
            environment
          ]
        )
      )
    }";
  withRelease = environment: { RELEASE = releaseOf environment; } // environment;

  credentialsOf = lib.mapAttrsToList (name: file: "${name}:${escapeSpecifiers file}");
  # An instance with a Redis of its own has the credential of all no more.
  ownCredentials =
    instance:
    optional (hasOwnRedis instance) ""
    ++ credentialsOf (
      optionalAttrs (hasOwnRedis instance) (removeAttrs cfg.credentials [ "redis-url" ])
      // instance.credentials
    );

  listenStream = address: [
    "" # forget the one of the unit file
    (if address == null then "%i" else "${address}:%i")
  ];
  hasOwnAddress = instance: instance.listenAddress != cfg.listenAddress;
  # Where this host finds what listens at an address.
  reachable =
    address:
    {
      "0.0.0.0" = "127.0.0.1";
      "[::]" = "[::1]";
    }
    .${address} or address;
  addressOf =
    port:
    let
      address = instances.${port}.listenAddress;
    in
    "${if address == null then "127.0.0.1" else reachable address}:${port}";
  # Where Prometheus asks for metrics.
  metricsOf =
    port:
    if cfg.monitor.enable then "${reachable cfg.monitor.listenAddress}:1${port}" else addressOf port;

  # What one instance has of its own. A file for each unit, be it empty, has a switch stop the
  # instance once it is taken out.
  instanceDropIns = pkgs.linkFarm "abukiks-instances" (
    lib.concatMapAttrs (
      port: instance:
      {
        "lib/systemd/system/abukiks@${port}.service.d/settings.conf" = dropIn {
          Unit = instance.unitConfig;
          Service = {
            Environment = environmentLines (
              lib.optionalAttrs (ownOf instance != { }) (
                ownOf instance // { inherit (withRelease (common // ownOf instance)) RELEASE; }
              )
            );
            EnvironmentFile = map escapeSpecifiers instance.environmentFiles;
            LoadCredential = ownCredentials instance;
          }
          // instance.serviceConfig;
        };
        "lib/systemd/system/abukiks@${port}.socket.d/settings.conf" = dropIn {
          Socket.ListenStream = lib.optionals (hasOwnAddress instance) (listenStream instance.listenAddress);
        };
        "lib/systemd/system/abukiks-listen@${port}.service.d/settings.conf" = dropIn {
          Unit.X-Restart-Triggers = optional (hasOwnAddress instance) (
            if instance.listenAddress == null then "all addresses" else instance.listenAddress
          );
        };
      }
      # Taken out when it is turned off, which has a switch close the second port.
      // optionalAttrs cfg.monitor.enable {
        "lib/systemd/system/abukiks-monitor@${port}.socket.d/settings.conf" = dropIn { Socket = { }; };
      }
    ) instances
  );
  # Backups and reports: each task is run as an instance that never runs, to which the package opens the network.
  tasks = lib.filterAttrs (_: task: task.enable) { inherit (cfg) backup report; };
  program = if tasks == { } then cfg.package else cfg.attachedPackage;
  taskSettings = {
    backup = {
      BACKUP_URL = cfg.backup.url;
      BACKUP_KEEP = cfg.backup.keep;
    };
    report = {
      MAIL_URL = cfg.report.url;
      MAIL_FROM = cfg.report.from;
      MAIL_TO = if cfg.report.to == [ ] then null else lib.concatStringsSep ", " cfg.report.to;
      MAIL_EVERY = cfg.report.every;
    };
  };
  # A folder needs no network, unless Redis does.
  needsNetwork =
    name: !(name == "backup" && lib.hasPrefix "file:" (toString cfg.backup.url)) || cfg.redis.overTcp;
  taskDropIns = pkgs.linkFarm "abukiks-tasks" (
    lib.mapAttrs' (
      name: task:
      lib.nameValuePair "lib/systemd/system/abukiks@${name}.service.d/settings.conf" (dropIn {
        Service = {
          Environment = environmentLines (
            lib.mapAttrs (_: render) (given taskSettings.${name}) // task.extraEnvironment
          );
          EnvironmentFile = map escapeSpecifiers task.environmentFiles;
          LoadCredential = credentialsOf task.credentials;
        }
        // (
          if needsNetwork name then
            # Over redis.allowedAddresses, which all instances have.
            { IPAddressAllow = "any"; }
          else
            { PrivateNetwork = true; }
        )
        // task.serviceConfig;
      })
    ) tasks
  );

  environmentLines =
    environment:
    lib.mapAttrsToList (name: value: builtins.toJSON "${name}=${value}") (inUnit environment);
  dropIn =
    sections:
    pkgs.writeText "settings.conf" (lib.generators.toINI { listsAsDuplicateKeys = true; } sections);

  allUrls = map (environment: environment.REDIS_URL or null) (
    [ common ] ++ map (instance: common // ownOf instance) (lib.attrValues instances)
  );
  isUnix =
    url: url != null && builtins.match "(unix|redis[+](unix|socket)|valkey[+]unix):.*" url != null;

  # The program itself reads each configuration at build time: what it would refuse is never deployed.
  # Files are named on the host, not in the sandbox, so what names one is left out. Of the certificate
  # authorities of a host the sandbox has none.
  checkedConfig =
    name: environment:
    pkgs.runCommand "abukiks-config-${name}" { } ''
      env --ignore-environment SSL_CERT_FILE=${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt ${
        lib.escapeShellArgs (
          lib.mapAttrsToList (variable: value: "${variable}=${value}") (
            lib.filterAttrs (variable: _: !lib.hasSuffix "_FILE" variable) environment
          )
        )
      } ${lib.getExe cfg.package} --check-config > $out
    '';

  # The unit file lets an instance reach a unix socket and nothing else; this lets it reach Redis by TCP.
  networkAccess = pkgs.linkFarm "abukiks-redis-tcp" {
    "lib/systemd/system/abukiks@.service.d/10-redis-tcp.conf" = ../systemd/redis-tcp.conf;
  };

  # What all instances have, or one of them in addition.
  sharedOptions = whose: {
    settings = mkOption {
      type = settingsType;
      default = { };
      example = {
        LOG_LEVEL = "warn";
        COUNTER_FENCE = true;
        DRAIN_LAME_DUCK = "5s";
      };
      description = ''
        Settings of ${whose}: environment variables as `abukiks --help` lists them. They are
        checked by the program itself when the system is built. Every user of the host can read them in the store:
        a secret belongs in {option}`services.abukiks.credentials`. A setting that is `null` is not
        set here. A variable in one of the environment files wins over a setting of that name.
      '';
    };

    extraEnvironment = mkOption {
      type = types.attrsOf (types.strMatching "[^[:cntrl:]]*");
      default = { };
      example = {
        SSL_CERT_DIR = "/etc/ssl/own";
      };
      description = ''
        Environment variables of ${whose} beside the settings. Their names are not checked.
      '';
    };

    environmentFiles = mkOption {
      type = types.listOf types.externalPath;
      default = [ ];
      example = [ "/run/secrets/abukiks.env" ];
      description = ''
        Files with more settings of ${whose}, as `NAME=value` lines, read when an instance starts. The
        later file wins over the earlier, and those of one instance over those of all. A `REDIS_URL` in
        a file takes the place of what {option}`services.abukiks.redis` says;
        `abukiks-admin settings --instance PORT` shows the Redis that an instance uses.

        A change of a file restarts nothing: have the secrets manager do that, see
        {option}`services.abukiks.units`.
      '';
    };

    credentials = mkOption {
      type = types.attrsOf types.externalPath;
      default = { };
      example = {
        redis-url = "/run/secrets/redis-url";
      };
      description = ''
        Credentials of ${whose}, which systemd hands over readable for the instances alone: {manpage}`systemd.exec(5)`,
        "CREDENTIALS". `redis-url` is a file whose first line is the URL of Redis; `redis-ca`,
        `redis-cert` and `redis-key` are PEM files for `rediss://`, which `REDIS_CA_FILE`,
        `REDIS_CERT_FILE` and `REDIS_KEY_FILE` then name. Any other is `%d/NAME` in
        {option}`services.abukiks.settings`.
      '';
    };
  };

  addressType = types.strMatching "[0-9]{1,3}(\\.[0-9]{1,3}){3}|\\[[0-9a-fA-F:.]+]" // {
    description = "IPv4 address, or IPv6 address in brackets";
  };

  unitConfigOption =
    section:
    mkOption {
      type = types.attrsOf utils.systemdUtils.unitOptions.unitOption;
      default = { };
      description = ''
        Lines for the `[${section}]` section of this instance alone, over those of all. For those of all
        use `systemd.services."abukiks@"`, as on any unit.
      '';
    };

  # What backup and report have alike.
  taskOptions =
    {
      what,
      startAt,
      credentials,
      example,
    }:
    {
      enable = lib.mkEnableOption "${what} by a timer, as `abukiks-admin` runs it";
      startAt = mkOption {
        type = types.str;
        default = startAt;
        example = "*-*-* 03:00";
        description = "When the timer starts it: `OnCalendar=` ({manpage}`systemd.time(7)`).";
      };
      extraEnvironment = mkOption {
        type = types.attrsOf (types.strMatching "[^[:cntrl:]]*");
        default = { };
        inherit example;
        description = ''
          Environment variables for ${what} beside those of the other options. Every user of the host can read them in the store.
        '';
      };
      environmentFiles = mkOption {
        type = types.listOf types.externalPath;
        default = [ ];
        description = "Files with more variables, as `NAME=value` lines. They win over those of the options.";
      };
      credentials = mkOption {
        type = types.attrsOf types.externalPath;
        default = { };
        example = lib.mapAttrs (name: _: "/run/secrets/${name}") credentials;
        description = ''
          Credentials that ${what} gets and no instance does: ${
            lib.concatStringsSep ", " (lib.mapAttrsToList (name: is: "`${name}` is ${is}") credentials)
          }.
        '';
      };
      serviceConfig = unitConfigOption "Service" // {
        description = "Lines for the `[Service]` section of ${what}, over those of all instances.";
      };
    };

  instanceType = types.submodule {
    options = sharedOptions "this instance alone, over those of all" // {
      enable = lib.mkEnableOption "this instance" // {
        default = true;
      };
      startMode = mkOption {
        type = types.enum [
          "eager"
          "on-demand"
        ];
        default = "eager";
        description = ''
          `eager` starts the instance at boot; `on-demand` has systemd listen on the port and start
          the instance when the first visitor comes. With `settings.IDLE_EXIT` it also ends again.
        '';
      };
      listenAddress = mkOption {
        type = types.nullOr addressType;
        default = cfg.listenAddress;
        defaultText = lib.literalExpression "config.services.abukiks.listenAddress";
        example = "192.0.2.1";
        description = "Address that this instance listens on.";
      };
      openFirewall = mkOption {
        type = types.bool;
        default = cfg.openFirewall;
        defaultText = lib.literalExpression "config.services.abukiks.openFirewall";
        description = "Open the port of this instance in the firewall.";
      };
      unitConfig = unitConfigOption "Unit";
      serviceConfig = unitConfigOption "Service" // {
        example = {
          MemoryMax = "1G";
        };
      };
    };
  };
in
{
  options.services.abukiks = sharedOptions "all instances" // {
    enable = lib.mkEnableOption "Abukiks, the visitor counter";

    package = lib.mkPackageOption pkgs "abukiks" { };

    attachedPackage = mkOption {
      type = types.package;
      default = pkgs.callPackage ./attached.nix { abukiks = cfg.package; };
      defaultText = lib.literalExpression "pkgs.abukiks-attached.override { abukiks = config.services.abukiks.package; }";
      description = ''
        Takes the place of {option}`services.abukiks.package` where backups or reports are enabled: the same programs, and
        those for these tasks.
      '';
    };

    instances = mkOption {
      type =
        with types;
        coercedTo (listOf port) (
          list:
          if lib.allUnique list then
            lib.genAttrs (map toString list) (_: { })
          else
            throw "services.abukiks.instances names a port twice: ${toString list}"
        ) (attrsOf instanceType);
      default = { };
      example = lib.literalExpression ''
        {
          "5000" = { };
          "5001".startMode = "on-demand";
        }
      '';
      description = ''
        The instances to run, by their ports: a set, or a plain list such as `[ 5000 5001 ]`. Each is
        a process of one thread behind a socket that systemd holds, so a restart refuses no connection.

        An instance that is taken out is stopped by the next switch. One that was started by hand,
        as by `systemctl start abukiks@5002`, has what all instances have, and stays.
      '';
    };

    listenAddress = mkOption {
      type = types.nullOr addressType;
      default = null;
      example = "[::1]";
      description = ''
        Address that the instances listen on, an IPv6 address in brackets. Without one they listen on
        all, and the firewall decides who reaches them.

        A switch to another address restarts the instances: each drains, then systemd opens its port
        anew. The port refuses connections for the length of the drain, a second or two.
      '';
    };

    redis = {
      createLocally = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Run a Redis on this host for Abukiks alone, on a unix socket, which writes every increment to
          disk before it is acknowledged.
        '';
      };
      server = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "main";
        description = ''
          Name of a server in {option}`services.redis.servers` of this host to count in, by its unix
          socket. The instances join its group and start after it.
        '';
      };
      url = mkOption {
        type = types.nullOr line;
        default = null;
        example = "rediss://redis.example.org/";
        description = ''
          The Redis to count in. For a URL with a password use {option}`services.abukiks.credentials`.
        '';
      };
      group = mkOption {
        type = types.nullOr types.str;
        default = if localServer == null then null else server.group;
        defaultText = lib.literalMD "the group of the server on this host, if that is known here";
        example = "redis";
        description = "Group that may use the unix socket of Redis; the instances join it.";
      };
      overTcp = mkOption {
        type = types.bool;
        default = !lib.all isUnix allUrls;
        defaultText = lib.literalMD "whether a URL is none of a unix socket, or is not known here";
        description = ''
          Let the instances reach Redis by TCP, at {option}`services.abukiks.redis.allowedAddresses`.
          Without it they have no network at all but the listening socket that they inherit.
        '';
      };
      allowedAddresses = mkOption {
        type = types.nullOr (types.listOf types.str);
        default =
          if lib.any (url: url != null && lib.hasPrefix "rediss:" url) allUrls then [ "any" ] else null;
        defaultText = lib.literalMD ''
          `[ "any" ]` where a URL is `rediss://`, whose servers show a certificate; else `null`
        '';
        example = [
          "localhost"
          "203.0.113.7"
          "2001:db8::/32"
        ];
        description = ''
          Addresses and networks that instances may reach when Redis is reached by TCP, each a word of
          `IPAddressAllow=` ({manpage}`systemd.resource-control(5)`). `null` is this host, its links and
          private networks. The name server that finds Redis must be among them, unless it is on this
          host.
        '';
      };
    };

    monitor = {
      enable = lib.mkEnableOption "a second port of each instance for health, metrics and version: its own with a one\nbefore it, such as 15000. They are then answered there, also when all connections of visitors are\nused up, and are 404 for visitors. This host's Prometheus asks there";
      listenAddress = mkOption {
        type = addressType;
        default = "127.0.0.1";
        example = "[fd00::1]";
        description = ''
          Address of the ports for monitoring, an IPv6 address in brackets. For a Prometheus on another
          host it is an address that only this one reaches, or the firewall opens the ports to it.

          A switch that changes it, or turns these ports on or off, restarts the instances as one of
          {option}`services.abukiks.listenAddress` does.
        '';
      };
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Open the ports of the instances in the firewall.";
    };

    sliceConfig = mkOption {
      type = types.attrsOf utils.systemdUtils.unitOptions.unitOption;
      default = { };
      example = {
        MemoryMax = "2G";
        CPUWeight = 50;
      };
      description = ''
        Limits of all instances and admin processes together, for the `[Slice]` section of
        `system-abukiks.slice`: {manpage}`systemd.resource-control(5)`.
      '';
    };

    units = mkOption {
      type = types.listOf types.str;
      readOnly = true;
      default = map (port: "abukiks@${port}.service") ports;
      defaultText = lib.literalMD "the services of the instances";
      description = ''
        Names of the services that run, for a secrets manager to restart:
        `sops.secrets."redis-url".restartUnits = config.services.abukiks.units`.
      '';
    };

    nginx = {
      enable = lib.mkEnableOption "nginx in front of the instances, balancing over them. It keeps connections to them,\nand `settings.TRUSTED_PROXIES` takes its word about visitors";
      virtualHost = mkOption {
        type = types.str;
        default = "localhost";
        example = "counter.example.org";
        description = ''
          Name of the virtual host; {option}`services.nginx.virtualHosts` sets it up further, with TLS
          for one. Health and metrics are not exposed there.
        '';
      };
    };

    prometheus = {
      enable = mkOption {
        type = types.bool;
        default = config.services.prometheus.enable;
        defaultText = lib.literalExpression "config.services.prometheus.enable";
        description = "Have this host's Prometheus scrape the instances that start at boot.";
      };
      rules = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Give this host's Prometheus the alerts of Abukiks. {option}`services.prometheus.alertmanagers`
          says who hears of them.
        '';
      };
    };

    backup =
      taskOptions {
        what = "`backup-count`";
        startAt = "daily";
        credentials.backup-env = "a file with secrets of the store, as `NAME=value` lines";
        example.AWS_ENDPOINT_URL = "https://s3.example.org";
      }
      // {
        url = mkOption {
          type = types.nullOr line;
          default = null;
          example = "s3://bucket/prefix";
          description = ''
            The store of backups: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, or
            `file:///var/lib/abukiks-backups`, a folder of this task.
          '';
        };
        keep = mkOption {
          type = types.nullOr types.ints.positive;
          default = null;
          example = 90;
          description = "How many backups are kept, 30 unless set.";
        };
      };

    report =
      taskOptions {
        what = "`mail-report`";
        startAt = "hourly";
        credentials = {
          mail-url = "a file whose first line is the URL of the mail server";
          mail-password = "a file whose first line is the password";
        };
        example.MAIL_CA_FILE = "/etc/ssl/mail.pem";
      }
      // {
        url = mkOption {
          type = types.nullOr line;
          default = null;
          example = "smtps://counter@mail.example.org";
          description = "The mail server, by `smtps://` or `smtp://`. The password is a credential.";
        };
        from = mkOption {
          type = types.nullOr line;
          default = null;
          example = "Abukiks <counter@example.org>";
          description = "Address that the report comes from.";
        };
        to = mkOption {
          type = types.listOf line;
          default = [ ];
          example = [ "owner@example.org" ];
          description = "Addresses that the report goes to.";
        };
        every = mkOption {
          type = types.nullOr (types.strMatching "[0-9]+[a-z]+");
          default = null;
          example = "7days";
          description = ''
            How often a report is sent, each day unless set. The timer runs more often, and so tries again after a failure.
          '';
        };
      };

    grafana.dashboard = mkOption {
      type = types.bool;
      default = false;
      description = "Give this host's Grafana the dashboard of Abukiks.";
    };
  };

  config = mkIf cfg.enable {
    assertions =
      let
        sources = lib.mapAttrs' (
          port: instance: lib.nameValuePair "instances.\"${port}\"" instance
        ) instances;
        everywhere = {
          "" = cfg;
        }
        // sources;
        nameOf = place: option: "services.abukiks.${lib.optionalString (place != "") "${place}."}${option}";
        forEach = check: lib.concatLists (lib.mapAttrsToList check everywhere);
        hasPassword = url: url != null && builtins.match ".*://.*:.*@.*|.*[?&]pass(word)?=.*" url != null;
        # Settings of one instance would mask those of all: see the head of this file.
        masking =
          kind: units:
          map (name: {
            assertion = false;
            message = "systemd.${kind}.\"${name}\" would hide from that instance all that services.abukiks and systemd.${kind}.\"abukiks@\" say; use services.abukiks.instances.\"${lib.removePrefix "abukiks@" name}\".serviceConfig and .unitConfig.";
          }) (lib.filter (name: builtins.match "abukiks@.+" name != null) (lib.attrNames units));
      in
      lib.concatLists [
        (forEach (
          place: source:
          let
            named = if place == "" then redisSources else redisSourcesOf source;
          in
          [
            {
              assertion = lib.length named <= 1;
              message = "${nameOf place "redis"} is said more than once, by ${lib.concatStringsSep ", " named}; keep one of them.";
            }
            {
              assertion = lib.all (name: source.settings.${name} == null) [
                "HOST"
                "PORT"
                "ADMIN_PORT"
              ];
              message = "${nameOf place "settings"} has HOST, PORT or ADMIN_PORT, but systemd binds the sockets; use instances, listenAddress and monitor.";
            }
          ]
          ++
            map
              (option: {
                assertion = !hasPassword (lib.attrByPath option null source);
                message = "${nameOf place (lib.concatStringsSep "." option)} holds a password, which every user of the host could read in the store; hand the URL over by credentials.redis-url.";
              })
              [
                [
                  "settings"
                  "REDIS_URL"
                ]
                [
                  "extraEnvironment"
                  "REDIS_URL"
                ]
                [
                  "redis"
                  "url"
                ]
              ]
          ++ map (name: {
            assertion = builtins.match "[a-zA-Z0-9_.-]+" name != null;
            message = "${nameOf place "credentials"}: \"${name}\" is no name of a credential; it takes letters, digits, and _ . -";
          }) (lib.attrNames source.credentials)
          ++ map (name: {
            assertion = builtins.match "[a-zA-Z_][a-zA-Z0-9_]*" name != null;
            message = "${nameOf place "extraEnvironment"}: \"${name}\" is no name of a variable; it takes letters, digits and _";
          }) (lib.attrNames source.extraEnvironment)
        ))
        (map (place: {
          assertion =
            redisSources != [ ]
            || cfg.environmentFiles != [ ]
            || place != "" && (hasOwnRedis everywhere.${place} || everywhere.${place}.environmentFiles != [ ]);
          message = "${
            if place == "" then "services.abukiks" else nameOf "" place
          } does not say where Redis is; set redis.createLocally, redis.server, redis.url or credentials.redis-url.";
        }) (if sources == { } then [ "" ] else lib.attrNames sources))
        [
          {
            assertion = cfg.redis.overTcp || lib.all (url: url == null || isUnix url) allUrls;
            message = "services.abukiks.redis.overTcp is false, but a Redis URL is none of a unix socket; the instances could not reach it.";
          }
          {
            assertion = localServer == null || (server.enable && server.unixSocket != null);
            message = "services.abukiks.redis.server names \"${toString localServer}\"; it takes a server of services.redis.servers that is enabled and has a unixSocket.";
          }
          {
            assertion = !cfg.nginx.enable || instances != { };
            message = "services.abukiks.nginx.enable is set, but there are no instances to balance over; nginx would not start.";
          }
        ]
        (map (port: {
          assertion = isPort port;
          message = "services.abukiks.instances.\"${port}\" is not a port; it takes a number from 1 to 65535.";
        }) ports)
        (map (port: {
          assertion = !cfg.monitor.enable || lib.stringLength port <= 4 && !instances ? "1${port}";
          message = "services.abukiks.monitor takes port 1${port} for instances.\"${port}\", which is no port or another instance's.";
        }) (lib.filter isPort ports))
        (lib.concatLists (
          lib.mapAttrsToList (
            name: task:
            let
              here = "services.abukiks.${name}";
              required =
                {
                  backup.url = "backup-env";
                  report = {
                    url = "mail-url";
                    from = null;
                    to = null;
                  };
                }
                .${name};
              isSaid =
                option: credential:
                !lib.elem task.${option} [
                  null
                  [ ]
                ]
                || task.environmentFiles != [ ]
                || credential != null && task.credentials ? ${credential};
              schemes = if name == "backup" then "(s3|gs|az|file)://.*" else "smtps?://.*";
              hasSecret =
                if name == "backup" then builtins.match ".*[@?#].*" task.url != null else hasPassword task.url;
            in
            lib.mapAttrsToList (option: credential: {
              assertion = isSaid option credential;
              message = "${here}.${option} is not set; set it, or name one of environmentFiles${
                lib.optionalString (credential != null) " or credentials.${credential}"
              } that does.";
            }) required
            ++ lib.optionals (task.url != null) [
              {
                assertion = builtins.match schemes task.url != null;
                message = "${here}.url has an unknown scheme; it takes ${
                  if name == "backup" then "s3://, gs://, az:// or file://" else "smtp:// or smtps://"
                }.";
              }
              {
                assertion = !hasSecret;
                message = "${here}.url holds more than the name of a server, which every user of the host could read in the store; hand secrets over by ${here}.credentials.";
              }
            ]
            ++ map (variable: {
              assertion = builtins.match ".*(SECRET|PASSWORD|TOKEN|ACCOUNT_KEY).*" variable == null;
              message = "${here}.extraEnvironment.${variable} is a secret, which every user of the host could read in the store; hand it over by ${here}.credentials.";
            }) (lib.attrNames task.extraEnvironment)
          ) tasks
        ))
        (masking "services" config.systemd.services)
        (masking "sockets" config.systemd.sockets)
      ];

    warnings =
      optional (instances == { })
        "services.abukiks is enabled without instances: systemctl start abukiks@PORT starts one until the next boot.";

    system.checks = lib.optionals (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) (
      [ (checkedConfig "common" common) ]
      ++ lib.mapAttrsToList (port: instance: checkedConfig port (common // ownOf instance)) (
        lib.filterAttrs (_: instance: ownOf instance != { }) instances
      )
    );

    systemd = {
      packages = [
        program
        instanceDropIns
      ]
      ++ optional cfg.redis.overTcp networkAccess
      ++ optional (tasks != { }) taskDropIns;

      timers = lib.mapAttrs' (
        name: task:
        lib.nameValuePair "abukiks-${name}" {
          overrideStrategy = "asDropin";
          wantedBy = [ "timers.target" ];
          timerConfig.OnCalendar = [
            "" # forget the one of the unit file
            task.startAt
          ];
        }
      ) tasks;

      # In the place of [Install] sections, which NixOS does not read. A `wantedBy` of an instance would
      # make an overrides.conf for it.
      targets = {
        multi-user.wants = map (port: "abukiks@${port}.service") eagerPorts;
        # A socket wants the second one too, but not when it was opened before the unit said so.
        sockets.wants = lib.concatMap (port: [
          "abukiks@${port}.socket"
          "abukiks-listen@${port}.service"
        ]) ports;
        abukiks = {
          overrideStrategy = "asDropin";
          wantedBy = [ "multi-user.target" ];
          wants =
            map (port: "abukiks@${port}.service") eagerPorts ++ map (port: "abukiks@${port}.socket") ports;
        };
      };

      services = {
        "abukiks-admin@" = {
          overrideStrategy = "asDropin";
          path = [ pkgs.gawk ];
          # A switch leaves a task that is under way alone; it would be killed, and begin again.
          restartIfChanged = false;
        };
        "abukiks@" = {
          overrideStrategy = "asDropin";
          # Else a switch would stop instances first, and a visitor in between would have the socket
          # start the old program again.
          stopIfChanged = false;
          enableDefaultPath = false;
          environment = inUnit (withRelease common);
          wants = mkIf (localServer != null) [ serverUnit ];
          after = mkIf (localServer != null) [ serverUnit ];
          serviceConfig = {
            EnvironmentFile = mkIf (cfg.environmentFiles != [ ]) (map escapeSpecifiers cfg.environmentFiles);
            LoadCredential = mkIf (cfg.credentials != { }) (credentialsOf cfg.credentials);
            SupplementaryGroups = mkIf (cfg.redis.group != null) [ cfg.redis.group ];
            IPAddressAllow = mkIf (cfg.redis.overTcp && cfg.redis.allowedAddresses != null) (
              # forget those of 10-redis-tcp.conf
              lib.mkBefore ([ "" ] ++ cfg.redis.allowedAddresses)
            );
          };
        };
        # A switch does not touch a socket that is open, yet systemd closes it when its address has changed.
        # This service stands for the address: its restart takes the instance down, opens the socket
        # anew, and starts the instance, in one transaction.
        "abukiks-listen@" = {
          description = "Abukiks visitor counter, address of port %i";
          # It is done before sockets are, so before what services wait for by default.
          unitConfig = {
            DefaultDependencies = false;
            # A rollback to a host without it leaves the sockets open.
            X-StopOnRemoval = false;
          };
          conflicts = [ "shutdown.target" ];
          before = [ "shutdown.target" ];
          restartTriggers =
            optional (cfg.listenAddress != null) cfg.listenAddress
            ++ optional cfg.monitor.enable "monitor ${cfg.monitor.listenAddress}";
          stopIfChanged = false;
          enableDefaultPath = false;
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            ExecStart = "${pkgs.coreutils}/bin/true";
          };
        };
        # Else a switch that changes its unit would leave visitors without Redis meanwhile.
        redis-abukiks = mkIf cfg.redis.createLocally { stopIfChanged = false; };
      };

      sockets = {
        "abukiks@" = {
          overrideStrategy = "asDropin";
          wants = [
            "abukiks-listen@%i.service"
          ]
          ++ optional cfg.monitor.enable "abukiks-monitor@%i.socket";
          after = [ "abukiks-listen@%i.service" ];
          partOf = [ "abukiks-listen@%i.service" ];
          socketConfig.ListenStream = mkIf (cfg.listenAddress != null) (
            lib.mkBefore (listenStream cfg.listenAddress)
          );
        };
        "abukiks-monitor@" = mkIf cfg.monitor.enable {
          overrideStrategy = "asDropin";
          socketConfig.ListenStream = lib.mkBefore [
            ""
            "${cfg.monitor.listenAddress}:1%i"
          ];
        };
      };

      slices.system-abukiks = mkIf (cfg.sliceConfig != { }) {
        overrideStrategy = "asDropin";
        inherit (cfg) sliceConfig;
      };
    };

    services = {
      # nginx on this host says who the visitor is.
      abukiks.settings.TRUSTED_PROXIES = mkIf cfg.nginx.enable (lib.mkDefault "127.0.0.1,::1");

      redis.servers.abukiks = mkIf cfg.redis.createLocally {
        enable = true;
        # What was acknowledged is on disk. One write serves a whole batch of visits.
        appendOnly = true;
        appendFsync = "always";
        save = [ ];
      };

      nginx = mkIf cfg.nginx.enable {
        enable = true;
        upstreams.abukiks = {
          # ../proxies/nginx.conf says why.
          extraConfig = "zone abukiks 64k; keepalive 64; keepalive_timeout 500ms;";
          servers = lib.genAttrs (map addressOf ports) (_: {
            fail_timeout = "1s";
          });
        };
        virtualHosts.${cfg.nginx.virtualHost}.locations = {
          "/" = {
            proxyPass = lib.mkDefault "http://abukiks";
            recommendedProxySettings = lib.mkDefault false;
            extraConfig = "include ${../proxies/proxy.conf};";
          };
        }
        // lib.genAttrs [ "= /healthz" "= /readyz" "= /metrics" "= /status" ] (_: {
          return = lib.mkDefault "404";
        });
      };

      prometheus = {
        scrapeConfigs = mkIf cfg.prometheus.enable [
          {
            job_name = "abukiks";
            # One that is to end when no visitor comes would be kept awake.
            static_configs = [ { targets = map metricsOf eagerPorts; } ];
          }
        ];
        ruleFiles = mkIf cfg.prometheus.rules [ ../monitoring/abukiks.rules.yml ];
      };

      grafana.provision = mkIf cfg.grafana.dashboard {
        enable = true;
        dashboards.settings.providers = [
          {
            name = "abukiks";
            options.path = ../monitoring/grafana;
          }
        ];
      };
    };

    networking.firewall.allowedTCPPorts = map lib.toInt (
      lib.filter (port: isPort port && instances.${port}.openFirewall) ports
    );

    # `abukiks-admin`, which runs an admin process (factor XII) with all that the service has.
    environment.systemPackages = [ program ];
  };

  meta.maintainers = [ ];
}
