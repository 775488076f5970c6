{
  description = "cis490: moves experiment data from lab hosts to one receiver, every episode, unchanged, whatever breaks";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});

      version = "${lib.substring 0 8 self.lastModifiedDate}.${self.shortRev or self.dirtyShortRev or "devel"}";
      programsOf = pkgs: import ./src/package.nix {
        inherit (pkgs) lib buildGoModule runCommand symlinkJoin;
        inherit version;
      };

      # The programs come from this flake, with the nixpkgs that they were tested with, unless package says otherwise.
      module = path: programs: {
        key = "cis490#${baseNameOf path}"; # imported twice it is one
        imports = [
          path
          ({ pkgs, ... }: {
            key = "cis490#${baseNameOf path}-packages";
            services.cis490 = lib.mapAttrs (_: name: { package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.${name}; }) programs;
          })
        ];
      };

      doctor = module ./modules/doctor.nix { doctor = "cis490-doctor"; };

      host = path: system: lib.nixosSystem {
        modules = [ self.nixosModules.default path { nixpkgs.hostPlatform = system; } ];
      };
      hosts = { receiver = ./nixos/receiver.nix; lab-host = ./nixos/lab-host.nix; };
    in
    {
      packages = each (pkgs:
        let
          system = pkgs.stdenv.hostPlatform.system;
          programs = programsOf pkgs;
        in
        {
          inherit (programs) cis490-demo cis490-doctor cis490-episode cis490-receiver cis490-shipper;
          default = programs.cis490;
          units = import ./modules/units.nix { inherit lib pkgs programs; inherit (self) nixosModules; };
          options-doc = import ./modules/options.nix { inherit lib pkgs; inherit (self) nixosModules; };
        }
        // lib.mapAttrs' (name: path: lib.nameValuePair "${name}-image" (host path system).config.system.build.images.qemu-efi) hosts);

      apps = each (pkgs: rec {
        demo = {
          type = "app";
          program = lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.cis490-demo;
          meta.description = "Watch real directories being sealed, shipped, verified and stored";
        };
        doctor = {
          type = "app";
          program = lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.cis490-doctor;
          meta.description = "Say what is broken on this lab host or receiver, and how to mend it";
        };
        default = demo;
      });

      overlays.default = final: _: { inherit (programsOf final) cis490-demo cis490-doctor cis490-episode cis490-receiver cis490-shipper; };

      nixosModules = {
        default.imports = [ self.nixosModules.receiver self.nixosModules.lab-host ];
        receiver.imports = [ (module ./modules/receiver.nix { receiver = "cis490-receiver"; }) doctor ];
        lab-host.imports = [ (module ./modules/lab-host.nix { shipper = "cis490-shipper"; labHost = "cis490-episode"; }) doctor ];
      };

      nixosConfigurations = lib.mapAttrs (_: path: host path "x86_64-linux") hosts;

      checks = each (pkgs: import ./checks {
        inherit lib pkgs;
        packages = self.packages.${pkgs.stdenv.hostPlatform.system};
        inherit (self) nixosModules;
      });

      devShells = each (pkgs: {
        default = pkgs.mkShell {
          packages = with pkgs; [ go gopls curl e2fsprogs fuse3 rsync strace zstd ];
          env.GOTOOLCHAIN = "local";
        };
      });

      formatter = each (pkgs: pkgs.nixfmt-tree);
    };
}
