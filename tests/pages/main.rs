//! The pages of the program in a real browser: Chromium, driven over WebDriver. What is shown is
//! compared with what the real program does, and every page is held against its policy: no
//! violation, no request to another origin, readable in light and dark, usable on a phone.
//!
//! Screenshots are kept in target/screenshots.

mod browser;
mod checks;
mod knock;
mod knock_offline;
mod machine;
mod service;
mod site;
mod status;
