//! Full mutual TLS handshakes: Wayleave's acceptor against a bare tokio-rustls one that
//! verifies clients by plain WebPKI, in the same run.
//!
//! Server and client each have a thread of their own, and only the server thread's CPU time
//! counts. Rounds of the variants alternate, so that a busy machine is unfair to all alike;
//! read ratios of the minima. Then the memory of an idle connection is compared.
//!
//! `cargo bench -p wayleave-benches --bench handshake [-- --test]`

mod memory;
mod papers;
mod server;

use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result};
use papers::Papers;
use server::{Acceptor, Server, Variant};

/// One table: how the chain is built.
const CHAINS: [(&str, bool); 2] = [("root, leaf", false), ("root, intermediate, leaf", true)];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((memory::HOLD, rest)) = arguments.split_first().map(|(a, r)| (a.as_str(), r)) {
        return report(memory::hold(rest));
    }
    // `cargo test --benches` and the smoke test in CI only want to see that it runs.
    let smoke = arguments.iter().any(|argument| argument == "--test");
    let (rounds, handshakes, connections) = if smoke { (1, 2, 2) } else { (15, 400, 2000) };
    let times = CHAINS
        .into_iter()
        .try_for_each(|(chain, between)| compare(chain, between, rounds, handshakes));
    report(times.and_then(|()| compare_memory(connections)))
}

fn report(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("handshake: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare_memory(connections: usize) -> Result<()> {
    println!("memory of an idle connection, server's resident set, {connections} connections");
    let mut plain = f64::NAN;
    for variant in Variant::ALL {
        let each = memory::measure(variant, connections)
            .with_context(|| format!("memory of {}", variant.name()))?;
        if variant == Variant::Plain {
            plain = each;
        }
        println!(
            "  {:44} {each:7.1} KB  x{:.2}",
            variant.name(),
            each / plain
        );
    }
    Ok(())
}

fn compare(chain: &str, intermediate: bool, rounds: usize, handshakes: u32) -> Result<()> {
    let papers = Papers::make(intermediate)?;
    let servers = Variant::ALL.map(|variant| (variant, Acceptor::new(variant, &papers)));
    let mut best = [f64::INFINITY; Variant::ALL.len()];
    for _ in 0..rounds {
        for ((variant, acceptor), best) in servers.iter().zip(&mut best) {
            let acceptor = acceptor.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
            let spent = round(acceptor, &papers, handshakes)
                .with_context(|| format!("variant {}", variant.name()))?;
            *best = best.min(spent);
        }
    }
    println!("{chain}: server CPU us per full handshake, minimum of {rounds} rounds");
    let plain = best.first().copied().unwrap_or(f64::NAN);
    for (variant, best) in Variant::ALL.iter().zip(best) {
        let (name, ratio, rate) = (variant.name(), best / plain, 1e6 / best);
        println!("  {name:44} {best:7.1} us  {rate:7.0} per CPU-second  x{ratio:.2}");
    }
    Ok(())
}

/// Server CPU microseconds per handshake.
fn round(acceptor: &Acceptor, papers: &Papers, handshakes: u32) -> Result<f64> {
    let server = Server::bind()?;
    let address = server.address();
    let client = papers.client_config()?;
    thread::scope(|scope| {
        let clients = scope.spawn(move || server::connect(address, client, handshakes));
        let spent = server.serve(acceptor, handshakes)?;
        let joined = clients.join();
        joined.map_err(|_| anyhow::anyhow!("the client thread panicked"))??;
        Ok(spent / f64::from(handshakes))
    })
}
