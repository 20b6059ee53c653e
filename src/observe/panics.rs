//! A panic is a fault in this program, and one line in the log like everything else:
//! its text may hold what a stranger sent.
//!
//! What becomes of the task that panicked is decided where it runs (`tasks`).

use std::any::Any;
use std::cell::RefCell;
use std::panic::set_hook;
use std::sync::mpsc::Sender;
use std::thread;

use tracing::{Level, error};

use super::{log, stderr};
use crate::printable::printable;

/// The remedy.
const DETAIL: &str = "a fault in this program; report it with this line";

thread_local! {
    static LISTENER: RefCell<Option<Sender<String>>> = const { RefCell::new(None) };
}

/// Makes one line of every panic from now on.
pub fn install() {
    set_hook(Box::new(|panic| {
        let said = said(panic.payload());
        if is_heard(said) {
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

/// Sends the panics of this thread to `listener`, and to no other place.
pub fn tell(listener: Sender<String>) {
    LISTENER.set(Some(listener));
}

/// Ends [`tell`], and so does the end of the thread.
pub fn tell_nobody() {
    LISTENER.set(None);
}

/// Returns true if this thread's panics have a listener, which was told.
fn is_heard(said: &str) -> bool {
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
