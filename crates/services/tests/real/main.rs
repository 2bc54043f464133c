//! The service managers on the real programs. A missing program, or not being root, skips a test aloud.
#![cfg(test)]

mod common;
mod ganesha;
mod samba;
