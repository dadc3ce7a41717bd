//! The `wayleave` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    wayleave_proxy::cli::main()
}
