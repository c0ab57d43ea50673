//! Each row of the table of merged answers.
