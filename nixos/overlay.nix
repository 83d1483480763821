{ commit, date }:
final: _prev: {
  abukiks = final.callPackage ./package.nix { inherit commit; };

  abukiks-image = final.callPackage ./image.nix {
    # One file that needs nothing else.
    abukiks = final.pkgsStatic.abukiks;
    inherit commit date;
  };
}
