//! The thread that turns records into lines, metrics and the list of the latest ones.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::metrics::Metrics;
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
        let work = Work {
            output,
            recent,
            tally: Tally::new(metrics),
            json: json::Writer::default(),
            buffer: Vec::new(),
            failing: false,
        };
        let source = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("record".into())
            .spawn(move || work.run(&source))?;
        Ok(Self { queue, thread })
    }

    /// Writes what is left and ends the thread.
    pub(crate) fn finish(self) {
        self.queue.close();
        if self.thread.join().is_err() {
            tracing::error!("the record writer ended in a panic");
        }
    }
}

struct Work {
    output: Output,
    recent: Arc<Recent>,
    tally: Tally,
    json: json::Writer,
    buffer: Vec<u8>,
    failing: bool,
}

impl Work {
    fn run(mut self, queue: &Queue) {
        let mut batch = Vec::new();
        let mut told = 0;
        while queue.take(&mut batch) {
            for record in &batch {
                self.tally.count(record);
                self.render(record);
            }
            self.flush();
            self.recent.keep(&mut batch);
            queue.reuse(&mut batch);
            let dropped = queue.dropped();
            if dropped > told {
                self.tally.metrics().records_dropped(dropped - told);
                tracing::warn!(
                    dropped = dropped - told,
                    "decision records dropped: the output is too slow"
                );
                told = dropped;
            }
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
                to.write_all(&self.buffer).and_then(|()| to.flush())
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
