//! An upstream that speaks bytes and no HTTP, and remembers what reached it and how each
//! connection ended.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::eventually;

/// What a server does with a connection.
#[derive(Clone, Copy)]
pub(crate) enum Talks {
    /// Speaks first, and sends back what it gets.
    Greets,
    /// Sends back what it gets.
    Echoes,
    /// Says nothing until its caller has ended, and then very much.
    AnswersAtTheEnd,
    /// Breaks off in the middle of its answer.
    BreaksOff,
}

pub(crate) const GREETING: &[u8] = b"220 ready when you are\r\n";
/// The length of a long answer: far more than any buffer on its way.
pub(crate) const LONG: usize = 16 << 20;

/// One connection, as the upstream saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) bytes: Vec<u8>,
    /// How it ended, once it has.
    pub(crate) end: Option<Result<(), io::ErrorKind>>,
}

pub(crate) struct TcpUpstream {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: JoinHandle<()>,
}

impl TcpUpstream {
    pub(crate) async fn start(talks: Talks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let task = tokio::spawn(accept(listener, Arc::clone(&heard), talks));
        Self {
            address,
            heard,
            task,
        }
    }

    /// Every connection so far.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Fails the test where so much as a connection was opened.
    pub(crate) fn assert_untouched(&self) {
        let heard = self.heard();
        assert!(heard.is_empty(), "reached the upstream: {heard:?}");
    }

    /// How the first connection ended, once it has.
    pub(crate) async fn ended(&self) -> Result<(), io::ErrorKind> {
        let what = "the upstream to see the end of its connection";
        eventually(what, || async { self.heard().first()?.end }).await
    }
}

impl Drop for TcpUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, heard: Arc<Mutex<Vec<Heard>>>, talks: Talks) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let index = {
            let mut heard = heard.lock().unwrap();
            heard.push(Heard::default());
            heard.len() - 1
        };
        let heard = Arc::clone(&heard);
        connections.spawn(async move {
            let end = talk(stream, talks, index, &heard).await;
            heard.lock().unwrap()[index].end = Some(end.map_err(|error| error.kind()));
        });
    }
}

async fn talk(
    mut stream: TcpStream,
    talks: Talks,
    index: usize,
    heard: &Mutex<Vec<Heard>>,
) -> io::Result<()> {
    if matches!(talks, Talks::Greets) {
        stream.write_all(GREETING).await?;
    }
    let mut buffer = vec![0; 65_536];
    loop {
        let count = stream.read(&mut buffer).await?;
        let bytes = &buffer[..count];
        heard.lock().unwrap()[index].bytes.extend_from_slice(bytes);
        if count == 0 {
            break;
        }
        match talks {
            Talks::Greets | Talks::Echoes => stream.write_all(bytes).await?,
            Talks::BreaksOff => {
                stream.write_all(b"half of").await?;
                stream.flush().await?;
                socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
                return Ok(());
            }
            Talks::AnswersAtTheEnd => {}
        }
    }
    if matches!(talks, Talks::AnswersAtTheEnd) {
        stream.write_all(&vec![b'a'; LONG]).await?;
    }
    stream.shutdown().await
}
