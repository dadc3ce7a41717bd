//! The thread that turns records into lines, metrics and the list of the latest ones.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::metrics::Metrics;
use super::queue::Records;
use super::tally::Tally;
use super::{DecisionRecord, Queue, Recent, json, text};

/// Where decision records go and in which form.
pub(crate) enum Output {
    /// One JSON object a line.
    Json(Box<dyn Write + Send>),
    /// One readable line a record.
    Text {
        /// Where to.
        to: Box<dyn Write + Send>,
        /// With ANSI colours.
        colour: bool,
    },
    /// Counted and kept among the latest, not written.
    Off,
}

impl Output {
    /// Opens a file to append to.
    ///
    /// # Errors
    /// When the file cannot be opened or made.
    pub(crate) fn append(path: &Path) -> io::Result<Box<dyn Write + Send>> {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)?;
        Ok(Box::new(file))
    }
}

/// The running writer. [`Writer::finish`] writes what is left and ends it.
pub(crate) struct Writer {
    queue: Arc<Queue>,
    redirected: Arc<Mutex<Option<Output>>>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts the writer's thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(
        queue: Arc<Queue>,
        output: Output,
        recent: Arc<Recent>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let work = Work::new(output, recent, metrics);
        let redirected = Arc::clone(&work.redirected);
        let source = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("record".into())
            .spawn(move || work.run(&source))?;
        Ok(Self {
            queue,
            redirected,
            thread,
        })
    }

    /// Writes elsewhere from the next record on.
    pub(crate) fn redirect(&self, output: Output) {
        *lock(&self.redirected) = Some(output);
    }

    /// Writes what is left and ends the thread.
    pub(crate) fn finish(self) {
        self.queue.close();
        if self.thread.join().is_err() {
            tracing::error!("the record writer ended in a panic");
        }
    }
}

fn lock(redirected: &Mutex<Option<Output>>) -> std::sync::MutexGuard<'_, Option<Output>> {
    redirected.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread does.
pub(super) struct Work {
    output: Output,
    redirected: Arc<Mutex<Option<Output>>>,
    recent: Arc<Recent>,
    tally: Tally,
    json: json::Writer,
    buffer: Vec<u8>,
    /// How many dropped records have been told of.
    dropped: u64,
    failing: bool,
    /// A line was begun and not ended: the disk became full in the middle of it.
    torn: bool,
}

/// Writes lines, and before them the end of one that was torn: the next record is a line of its
/// own, whatever became of the one before.
fn write_lines(to: &mut dyn Write, lines: &[u8], torn: &mut bool) -> io::Result<()> {
    if *torn {
        to.write_all(b"\n")?;
        *torn = false;
    }
    let mut left = lines;
    while !left.is_empty() {
        match to.write(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => {
                let (written, rest) = left.split_at(length.min(left.len()));
                *torn = written.last() != Some(&b'\n');
                left = rest;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    to.flush()
}

impl Work {
    pub(super) fn new(output: Output, recent: Arc<Recent>, metrics: Arc<Metrics>) -> Self {
        Self {
            output,
            redirected: Arc::default(),
            recent,
            tally: Tally::new(metrics),
            json: json::Writer::default(),
            buffer: Vec::new(),
            dropped: 0,
            failing: false,
            torn: false,
        }
    }

    fn run(mut self, queue: &Queue) {
        let mut batch = Vec::new();
        while queue.take(&mut batch) {
            self.write(&mut batch, queue);
        }
    }

    /// Counts and writes a batch, and gives its records back to be used again.
    pub(super) fn write(&mut self, batch: &mut Records, queue: &Queue) {
        if let Some(output) = lock(&self.redirected).take() {
            self.output = output;
        }
        for record in &*batch {
            self.tally.count(record);
            self.render(record);
        }
        self.flush();
        self.recent.keep(batch);
        queue.reuse(batch);
        self.tell_of_dropped(queue.dropped());
    }

    fn tell_of_dropped(&mut self, since_start: u64) {
        let dropped = since_start.saturating_sub(self.dropped);
        if dropped > 0 {
            self.tally.metrics().records_dropped(dropped);
            tracing::warn!(dropped, "decision records dropped: the output is too slow");
            self.dropped = since_start;
        }
    }

    fn render(&mut self, record: &DecisionRecord) {
        match &self.output {
            Output::Json(_) => {
                self.json.write(record, &mut self.buffer);
                self.buffer.push(b'\n');
            }
            Output::Text { colour, .. } => {
                self.buffer
                    .extend_from_slice(text::line(record, *colour).as_bytes());
            }
            Output::Off => {}
        }
    }

    fn flush(&mut self) {
        let result = match &mut self.output {
            Output::Json(to) | Output::Text { to, .. } => {
                write_lines(&mut **to, &self.buffer, &mut self.torn)
            }
            Output::Off => Ok(()),
        };
        self.buffer.clear();
        match result {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.tally.metrics().record_write_failed();
                if !self.failing {
                    tracing::error!(%error, "decision records cannot be written");
                }
                self.failing = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with so much room.
    struct Disk {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.get(..self.room.min(bytes.len())).unwrap();
            if fits.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.extend_from_slice(fits);
            self.room -= fits.len();
            Ok(fits.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_tears_one_line_and_no_other() {
        let mut torn = false;
        let (written, room) = (Vec::new(), 6);
        let mut disk = Disk { written, room };
        assert!(write_lines(&mut disk, b"one\ntwo\n", &mut torn).is_err());
        assert!(write_lines(&mut disk, b"three\n", &mut torn).is_err());
        disk.room = 100;
        write_lines(&mut disk, b"four\n", &mut torn).unwrap();
        write_lines(&mut disk, b"five\n", &mut torn).unwrap();
        assert_eq!(disk.written, b"one\ntw\nfour\nfive\n");
    }

    #[test]
    fn a_disk_that_is_full_between_two_lines_leaves_no_empty_one() {
        let mut torn = false;
        let (written, room) = (Vec::new(), 4);
        let mut disk = Disk { written, room };
        assert!(write_lines(&mut disk, b"one\ntwo\n", &mut torn).is_err());
        disk.room = 100;
        write_lines(&mut disk, b"three\n", &mut torn).unwrap();
        assert_eq!(disk.written, b"one\nthree\n");
    }
}
