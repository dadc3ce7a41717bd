# syntax=docker/dockerfile:1
#
#   docker build -t wayleave .
#   docker run --rm -v "$PWD/etc:/etc/wayleave:ro" -p 8443:8443 wayleave
#
# The first stage compiles, the second holds one binary on a slim Debian and runs it as a user
# that owns nothing.
#
# The binary is trained and laid out by what runs (benches/release.sh): that takes a second build, and
# runs of both. `--build-arg TUNED=no` does without, for a build under emulation or in a hurry; the
# binary does the same then, with a tenth more processor time and in twice the memory.

FROM rust:1-slim-bookworm AS build
ARG TUNED=yes
# Rust brings the linker that takes a layout for x86-64; elsewhere it is Debian's.
RUN if [ "$TUNED" = yes ]; then \
        apt-get update && apt-get install -y --no-install-recommends binutils lld perl valgrind \
        && rm -rf /var/lib/apt/lists/* \
        && rustup component add llvm-tools; \
    fi
WORKDIR /src
COPY . .
# The registry and the target folder live in caches, so the binary is taken out in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    if [ "$TUNED" = yes ]; then benches/release.sh; \
    else cargo build --release --locked --package wayleave-proxy --bin wayleave; fi \
    && install -D -m 0755 target/release/wayleave /out/wayleave

# glibc of the same Debian release as the first stage.
FROM debian:bookworm-slim
COPY --from=build /out/wayleave /usr/local/bin/wayleave
COPY LICENSE /usr/share/doc/wayleave/LICENSE
USER 65532:65532
EXPOSE 8443
STOPSIGNAL SIGTERM
# Asks the admin listener at its default address; give `--admin` where the config moves it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/wayleave", "ready"]
ENTRYPOINT ["/usr/local/bin/wayleave"]
CMD ["run", "--config", "/etc/wayleave/wayleave.yaml"]
