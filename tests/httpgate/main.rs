//! The gate in front of web servers: real servers (nginx, Vite, WebSocket), real clients (curl,
//! WebSocket), and raw ones on both sides, which see and send every byte. Needs root, for the
//! namespaces of clients.

mod answers;
mod bodies;
mod command;
mod decisions;
mod encrypted;
mod forwards;
mod http;
mod http2;
mod hygiene;
mod kept;
mod knock_page;
mod knocking;
mod nginx;
mod slow;
mod smuggling;
mod tls_target;
mod upgrades;
mod uploads;
mod world;
