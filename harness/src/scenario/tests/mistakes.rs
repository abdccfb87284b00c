//! Wrong files, what is said about them, and where.
