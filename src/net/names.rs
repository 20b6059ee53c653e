//! Looks names up for callers that wait for the answer, but not for ever.
//!
//! A look-up cannot be cancelled. So there is at most one for each name: a caller that gives up
//! leaves it to the next caller, and a slow or dead name server causes no pile of look-ups. The
//! last good answer is used while there is no better one, as [`super::Resolver`] does for targets.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::resolve::{Target, look_up_apart};
use crate::addr::Address;

/// Highest number of names that are remembered; no configuration has more.
const MOST: usize = 256;

/// Names that are dialled.
#[derive(Debug, Default)]
pub struct Names(SyncMutex<HashMap<String, Arc<Mutex<Name>>>>);

#[derive(Debug, Default)]
struct Name {
    /// The look-up that is under way.
    asked: Option<Asked>,
    last: Option<Target>,
}

#[derive(Debug)]
struct Asked {
    began: Instant,
    task: JoinHandle<io::Result<Target>>,
}

/// The reason why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// The error of the system's resolver.
    #[error(transparent)]
    Failed(io::Error),
    /// The resolver gives no answer.
    #[error("no answer from name service within {} s", .0.as_secs())]
    Silent(Duration),
}

impl Names {
    /// Looks `address` up within `patience`. Cancel safe.
    ///
    /// # Errors
    /// [`NameError`], when there is no earlier answer either.
    pub async fn find(&self, address: &Address, patience: Duration) -> Result<Target, NameError> {
        if address.is_literal() {
            return look_up_apart(address.clone()).await.map_err(NameError::Failed);
        }
        let name = self.name(address);
        let Ok(mut name) = timeout(patience, name.lock()).await else {
            return Err(NameError::Silent(patience));
        };
        // An answer that no caller waited for is out of date by now.
        name.asked.take_if(|asked| asked.task.is_finished() && asked.began.elapsed() > patience);
        let asked = name.asked.get_or_insert_with(|| Asked {
            began: Instant::now(),
            task: tokio::spawn(look_up_apart(address.clone())),
        });
        let error = match timeout(patience, &mut asked.task).await {
            Ok(answer) => {
                name.asked = None;
                match answer.map_err(io::Error::other).and_then(|found| found) {
                    Ok(found) => {
                        name.last = Some(found.clone());
                        return Ok(found);
                    }
                    Err(error) => NameError::Failed(error),
                }
            }
            Err(_) => NameError::Silent(patience),
        };
        name.last.clone().ok_or(error)
    }

    fn name(&self, address: &Address) -> Arc<Mutex<Name>> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MOST {
            names.clear();
        }
        Arc::clone(names.entry(address.to_string()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn slot(
        names: &Names,
        address: &Address,
        answer: impl Future<Output = io::Result<Target>> + Send + 'static,
    ) {
        let name = names.name(address);
        name.try_lock().unwrap().asked =
            Some(Asked { began: Instant::now(), task: tokio::spawn(answer) });
    }

    fn target() -> Target {
        Target::Unix(std::path::Path::new("/found").into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_kept_for_the_next_caller() {
        let names = Names::default();
        let address = "db.example:1".parse().unwrap();
        slot(&names, &address, async {
            tokio::time::sleep(SOON * 3 / 2).await;
            Ok(target())
        });
        let error = names.find(&address, SOON).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer from name service within 5 s");
        assert_eq!(names.find(&address, SOON).await.unwrap(), target());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_is_used_while_there_is_no_better_one() {
        let names = Names::default();
        let address = "db.example:1".parse().unwrap();
        slot(&names, &address, async { Err(io::Error::other("no such host")) });
        let error = names.find(&address, SOON).await.unwrap_err();
        assert_eq!(error.to_string(), "no such host");
        slot(&names, &address, async { Ok(target()) });
        names.find(&address, SOON).await.unwrap();
        slot(&names, &address, async { Err(io::Error::other("no such host")) });
        assert_eq!(names.find(&address, SOON).await.unwrap(), target());
        slot(&names, &address, std::future::pending());
        assert_eq!(names.find(&address, SOON).await.unwrap(), target());
    }

    #[test]
    fn names_that_are_remembered_are_limited() {
        let names = Names::default();
        for number in 0..2 * MOST {
            names.name(&format!("host{number}:1").parse().unwrap());
        }
        assert!(names.0.lock().unwrap().len() <= MOST);
    }
}
