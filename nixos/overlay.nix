{ commit, date }:
final: _prev: {
  abukiks = final.callPackage ./package.nix { inherit commit; };

  abukiks-image = final.callPackage ./image.nix {
    # One file that needs nothing else.
    inherit (final.pkgsStatic) abukiks;
    inherit commit date;
  };
}
