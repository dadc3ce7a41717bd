//! Lays out the functions of the `wayleave` binary in the order in which they run, where
//! `WAYLEAVE_LAYOUT` names a list of them (benches/release.sh makes one). Without it, the order
//! is the compiler's, and more of the binary is resident.

use std::env::{self, VarError};
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=WAYLEAVE_LAYOUT");
    let list = match env::var("WAYLEAVE_LAYOUT") {
        Err(VarError::NotPresent) => return,
        Err(error) => return println!("cargo::error=WAYLEAVE_LAYOUT: {error}"),
        Ok(list) => PathBuf::from(list),
    };
    if !list.is_absolute() || !list.is_file() {
        return println!(
            "cargo::error=WAYLEAVE_LAYOUT: {} is not the absolute path of a file; benches/release.sh \
             makes one and builds with it",
            list.display()
        );
    }
    println!("cargo::rerun-if-changed={}", list.display());
    // Rust links with LLD where it is the default; elsewhere it has to be on the machine.
    if env::var("TARGET").is_ok_and(|target| target != "x86_64-unknown-linux-gnu") {
        argument("-fuse-ld=lld");
    }
    // Not by -Wl, at whose commas a path would be parted.
    argument("-Xlinker");
    argument(&format!("--symbol-ordering-file={}", list.display()));
    // Functions of the C library are in the list as well.
    argument("-Xlinker");
    argument("--no-warn-symbol-ordering");
}

fn argument(text: &str) {
    println!("cargo::rustc-link-arg-bin=wayleave={text}");
}
