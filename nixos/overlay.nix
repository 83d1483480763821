{ commit, date }:
final: _prev: {
  abukiks = final.callPackage ./package.nix { inherit commit; };

  abukiks-attached = final.callPackage ./attached.nix { };

  abukiks-image = final.callPackage ./image.nix {
    # One file that needs nothing else.
    inherit (final.pkgsStatic) abukiks;
    inherit commit date;
  };
}
