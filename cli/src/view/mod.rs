//! What a person sees of a cluster: one summary, drawn as text and as a live screen.

pub mod fit;
pub mod summary;
pub mod text;
pub mod top;
