//! Memory of an idle connection: a server process of its own holds many, and the growth of
//! its resident set is divided by their number.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::papers::Papers;
use crate::server::{Acceptor, Held, Server, Variant, runtime};

/// Connections that are made before the first look, so that what is set up once is not counted.
const WARM_UP: usize = 20;

/// The option that makes this program the server.
pub(crate) const HOLD: &str = "--hold";

/// Kilobytes of a server process for each idle connection.
pub(crate) fn measure(variant: Variant, connections: usize) -> Result<f64> {
    let mut server = Command::new(std::env::current_exe()?)
        .args([HOLD, variant.name(), &(WARM_UP + connections).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let measured = against(&mut server, connections);
    // The server ends when its input does.
    drop(server.stdin.take());
    server.wait()?;
    measured
}

fn against(server: &mut Child, connections: usize) -> Result<f64> {
    let output = server.stdout.take().context("the server has no output")?;
    let mut lines = BufReader::new(output).lines();
    let mut line = || {
        lines
            .next()
            .context("the server ended")?
            .map_err(anyhow::Error::from)
    };
    let address: std::net::SocketAddr = line()?.parse()?;
    let client = Papers::read_client(&mut line)?;
    let connector = TlsConnector::from(Arc::new(client));
    runtime()?.block_on(async {
        let connect = async || {
            let stream = TcpStream::connect(address).await?;
            anyhow::Ok(connector.connect("localhost".try_into()?, stream).await?)
        };
        let mut held = Vec::new();
        for _ in 0..WARM_UP {
            held.push(connect().await?);
        }
        let before = resident_kilobytes(server.id())?;
        for _ in 0..connections {
            held.push(connect().await?);
        }
        // The server says so when it has accepted the last of them.
        if line()? != "held" {
            bail!("the server did not hold all connections");
        }
        let after = resident_kilobytes(server.id())?;
        #[expect(clippy::cast_precision_loss, reason = "kilobytes and counts are small")]
        let each = after.saturating_sub(before) as f64 / connections as f64;
        Ok(each)
    })
}

/// The server process: accepts so many connections and holds them until its input ends.
pub(crate) fn hold(arguments: &[String]) -> Result<()> {
    let [variant, connections] = arguments else {
        bail!("{HOLD} takes a variant and a number");
    };
    let variant = Variant::named(variant).context("no such variant")?;
    let papers = Papers::make(false)?;
    let acceptor = Acceptor::new(variant, &papers)?;
    let server = Server::bind()?;
    println!("{}", server.address());
    papers.write_client(&mut std::io::stdout())?;
    std::io::stdout().flush()?;
    let held: Vec<Held> = server.hold(&acceptor, connections.parse()?)?;
    println!("held");
    std::io::stdin().read_line(&mut String::new())?;
    drop(held);
    Ok(())
}

/// The resident set of a process (proc(5), status).
fn resident_kilobytes(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("the kernel tells no VmRSS")?.parse()?)
}
