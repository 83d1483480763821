# The options of the module as Markdown: the second part of docs/nixos.md, whose first part is written
# by hand. `nix build .#docs` makes that page; the check says whether it is the one in the tree.
{ pkgs }:

let
  inherit (pkgs) lib;
  inherit (lib)
    concatMapStrings
    hasInfix
    hasPrefix
    optionalString
    removePrefix
    ;

  module = lib.evalModules {
    modules = [
      ./module.nix
      {
        _module.check = false;
        _module.args = {
          inherit pkgs;
          utils = import (pkgs.path + "/nixos/lib/utils.nix") {
            inherit lib pkgs;
            config = { };
          };
        };
      }
    ];
  };

  options = map (option: option // { name = removePrefix "services.abukiks." option.name; }) (
    lib.filter (option: option.visible && !option.internal) (
      lib.optionAttrSetToDocList { inherit (module.options.services) abukiks; }
    )
  );

  ofInstance = "instances.<name>.";
  isSetting = option: hasInfix "settings." option.name;
  # An instance takes what all take as well; once is enough.
  shared = [
    "credentials"
    "environmentFiles"
    "extraEnvironment"
    "settings"
  ];
  isRepeated = option: lib.elem option.name (map (name: ofInstance + name) shared);
  settings = lib.filter (option: hasPrefix "settings." option.name) options;

  # Chapters by the first part of an option's name, in this order.
  chapters = [
    {
      title = "All instances";
      intro = "";
      has = name: !hasInfix "." name;
    }
    {
      title = "One instance";
      intro = "And ${
        lib.concatMapStringsSep ", " (name: "`${name}`") shared
      } as above, for this instance alone and over those of all.\n\n";
      has = hasPrefix ofInstance;
    }
  ]
  ++
    map
      (part: {
        title = part;
        intro = "";
        has = hasPrefix "${part}.";
      })
      [
        "redis"
        "backup"
        "report"
        "nginx"
        "monitor"
        "prometheus"
        "grafana"
      ];

  plain =
    text:
    lib.trim (
      lib.replaceStrings [ "{option}`services.abukiks." "{option}`" "{manpage}`" ] [ "`" "`" "`" ] text
    );

  code = text: if hasInfix "\n" text then "\n\n```nix\n${lib.trim text}\n```" else " `${text}`";
  # In fewer words than the module system's.
  shortType =
    type:
    lib.replaceStrings
      [
        "null or "
        "(positive integer, meaning >0)"
        " (singular enum)"
        " (both inclusive)"
        "unsigned integer, meaning >=0, or "
        "32 bit unsigned integer; between"
        "16 bit unsigned integer; between"
      ]
      [
        ""
        "positive integer"
        ""
        ""
        ""
        "integer between"
        "integer between"
      ]
      type;
  # A pattern would be taken for emphasis.
  typeOf = { type, ... }: if hasInfix "`" type then shortType type else "`${shortType type}`";
  valueOf = value: if value._type == "literalMD" then " ${plain value.text}" else code value.text;

  describe = option: ''
    #### `${option.name}`

    ${plain option.description}

    - Type: ${typeOf option}
    ${optionalString (option ? default && !option.readOnly) "- Default:${valueOf option.default}\n"}${
      optionalString (option ? example) "- Example:${valueOf option.example}\n"
    }
  '';

  cell = text: lib.replaceStrings [ "|" "\n" ] [ "\\|" " " ] text;
  row =
    setting:
    "| `${removePrefix "settings." setting.name}` | ${cell (shortType setting.type)} | ${cell (lib.trim (valueOf setting.example))} | ${cell (plain setting.description)} |\n";

  chapterOf =
    {
      title,
      intro,
      has,
    }:
    let
      members = lib.filter (option: has option.name && !isSetting option && !isRepeated option) options;
      # What turns the others on comes first.
      inherit (lib.partition (option: lib.hasSuffix "enable" option.name) members) right wrong;
    in
    "### ${title}\n\n${intro}${concatMapStrings describe (right ++ wrong)}";

  undescribed = lib.filter (
    option: !isSetting option && !lib.any (chapter: chapter.has option.name) chapters
  ) options;

  heading = "\n## Options\n";
  byHand = lib.head (lib.splitString heading (lib.readFile ../docs/nixos.md));

  text =
    assert lib.assertMsg (undescribed == [ ])
      "nixos/docs.nix has no chapter for ${toString (map (option: option.name) undescribed)}";
    ''
      ${byHand}${heading}
      Of `services.abukiks`, each with its type, its default and an example.

      ${concatMapStrings chapterOf chapters}### settings

      Of all instances, or of one: `instances.<name>.settings`. One that is not set has the default of
      the service, which `abukiks --help` lists.

      | setting | takes | example | meaning |
      |---|---|---|---|
      ${concatMapStrings row settings}'';

  page = pkgs.writeText "nixos.md" text;
in
pkgs.runCommand "abukiks-docs" { passthru = { inherit page text; }; } ''
  diff --unified ${../docs/nixos.md} ${page}
  touch $out
''
