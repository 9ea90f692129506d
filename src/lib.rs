//! Weir: a programmable edge proxy for LLM inference, built on Pingora.
//!
//! The modules in layer order; an arrow may only point down (`tests/layers.rs` holds that):
//!
//! | layer | module | holds |
//! | --- | --- | --- |
//! | L0 | [`domain`] | the words of the business, no I/O, no clock |
//! | L1 | [`logic`] | pure decisions: values in, values out |
//! | L2 | [`config`], [`ports`] | YAML text to a compiled snapshot; the traits that stages need |
//! | L3 | [`runtime`], [`exchange`] | what a request pins; what an admitted one carries |
//! | L3 | [`stages`] | the request's way, nine files |
//! | L4 | [`io`] | stores, spool, metrics, probes |
//! | L5 | [`admin`] | the admin API and self-service: a request's parts to a JSON answer |
//! | L5 | [`edge`], [`writer`], [`sim`] | Pingora; the usage writer; simulated engines |
//! | L6 | [`cli`] | composition roots, one per command |

pub mod domain;
pub mod logic;
pub mod config;
pub mod ports;
pub mod runtime;
pub mod exchange;
pub mod stages;
pub mod io;
pub mod admin;
pub mod edge;
pub mod writer;
pub mod sim;
pub mod cli;
