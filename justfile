# `just check` is what the gate runs; the rest are its parts, and what a working day needs.

# The recipes.
default:
    @just --list

# Everything that must hold before a change goes in.
check:
    .ci/run

# Format the code.
format:
    cargo fmt --all

# Clippy, with warnings as errors.
lint:
    .ci/run format lint

# Every test.
test *arguments:
    cargo test {{ arguments }}

# The API documentation, with warnings as errors.
docs:
    .ci/run docs

# Licences, bans, sources and advisories of the dependencies, and the crate graph.
deny:
    .ci/run graph deny

# The benchmarks; arguments go to them.
bench *arguments:
    cargo bench -p wayleave-benches {{ arguments }}

# The local dev proxy.
dev *arguments:
    cargo run --release -- dev {{ arguments }}

# The binary as it is released: trained, and laid out by what runs.
release:
    benches/release.sh

# The container image.
image:
    docker build --tag wayleave .
