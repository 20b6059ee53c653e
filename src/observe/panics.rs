//! Logs a panic, which is a fault in this program, as one line: its text may contain bytes of a
//! stranger.
//!
//! `tasks` handles the task that panicked.

use std::any::Any;
use std::cell::RefCell;
use std::panic::set_hook;
use std::sync::mpsc::Sender;
use std::thread;

use tracing::{Level, error};

use super::{log, stderr};
use crate::printable::printable;

/// Remedy in that line.
const DETAIL: &str = "a fault in this program; report it with this line";

thread_local! {
    static LISTENER: RefCell<Option<Sender<String>>> = const { RefCell::new(None) };
}

/// Logs every panic as one line from now on.
pub fn install() {
    set_hook(Box::new(|panic| {
        let said = said(panic.payload());
        if is_delivered(said) {
            return;
        }
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if log::is_started() {
            let thread = thread::current();
            error!(error = said, place, thread = thread.name(), detail = DETAIL, "panic");
        } else {
            let line = format!("panic at {}: {}; {DETAIL}", printable(&place), printable(said));
            stderr::line(Level::ERROR, &line);
        }
    }));
}

/// Sends the panics of this thread to `listener` only.
pub fn listen(listener: Sender<String>) {
    LISTENER.set(Some(listener));
}

/// Ends [`listen`], and so does the end of the thread.
pub fn stop_listening() {
    LISTENER.set(None);
}

/// Sends a panic to this thread's listener; returns false if it has none.
fn is_delivered(said: &str) -> bool {
    let told = LISTENER.try_with(|listener| {
        let listener = listener.try_borrow();
        listener.is_ok_and(|it| it.as_ref().is_some_and(|it| it.send(said.to_owned()).is_ok()))
    });
    told.unwrap_or(false)
}

fn said(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(owned).unwrap_or("it says nothing")
}
