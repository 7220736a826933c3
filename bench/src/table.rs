//! Text tables: the first column left, the others right.

/// Rows of cells under a head, printed with a title and notes below.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
}

impl Table {
    pub fn new(title: impl Into<String>, head: &[&str]) -> Table {
        let head = head.iter().map(|cell| (*cell).to_string()).collect();
        Table { title: title.into(), rows: vec![head], notes: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.rows[0].len(), "a row as wide as the head");
        self.rows.push(cells);
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub fn print(&self) {
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        println!("\n{}", self.title);
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = format!("  {:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                line.push_str(&format!("  {cell:>width$}"));
            }
            println!("{}", line.trim_end());
            if number == 0 {
                let total: usize = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
                println!("  {}", "-".repeat(total));
            }
        }
        for note in &self.notes {
            println!("  {note}");
        }
    }
}

/// A figure with as many digits as it deserves; `-` when there is none.
pub fn figure(value: f64) -> String {
    match value {
        v if v.is_nan() => "-".to_string(),
        v if v.abs() >= 1000.0 => format!("{v:.0}"),
        v if v.abs() >= 100.0 => format!("{v:.1}"),
        v if v.abs() >= 1.0 || v == 0.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// A ratio with its interval; `-` when a side is missing.
pub fn ratio(value: Option<crate::stats::Ratio>) -> String {
    value.map_or_else(|| "-".to_string(), |r| r.to_string())
}
