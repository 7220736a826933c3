//! The report as text: sections of rows, labels in one column, long values broken at words.

/// Where values start.
const VALUE_COLUMN: usize = 18;
/// Where lines end.
const WIDTH: usize = 100;

/// A report under construction.
pub struct Page {
    text: String,
    advice: Vec<String>,
}

impl Page {
    /// An empty one.
    pub fn new() -> Self {
        Self { text: String::new(), advice: Vec::new() }
    }

    /// Starts a section.
    pub fn section(&mut self, name: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(name);
        self.text.push('\n');
    }

    /// A label and its value. An empty label continues the row above.
    pub fn row(&mut self, label: &str, value: impl AsRef<str>) {
        let head = format!("  {label:<width$}", width = VALUE_COLUMN - 2);
        // A label that fills its column must not run into the value.
        let head = if head.ends_with(' ') { head } else { head + " " };
        self.wrapped(head, VALUE_COLUMN, value.as_ref());
    }

    /// Something to do; all of it comes at the end, each once.
    pub fn advise(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.advice.contains(&text) {
            self.advice.push(text);
        }
    }

    /// The text, without the last line's end.
    pub fn finish(mut self) -> String {
        self.section("advice");
        let advice = std::mem::take(&mut self.advice);
        if advice.is_empty() {
            self.text.push_str("  none: nothing here is in the way\n");
        }
        for text in advice {
            self.wrapped("  - ".to_owned(), 4, &text);
        }
        self.text.truncate(self.text.trim_end().len());
        self.text
    }

    fn wrapped(&mut self, head: String, indent: usize, value: &str) {
        let mut line = head;
        let mut fresh = true;
        for word in value.split_whitespace() {
            if !fresh && line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.push(&line);
                line = " ".repeat(indent);
                fresh = true;
            }
            if !fresh {
                line.push(' ');
            }
            // What the environment holds may hold anything.
            line.extend(word.chars().map(|c| if c.is_control() { '?' } else { c }));
            fresh = false;
        }
        self.push(&line);
    }

    fn push(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_broken_at_words_and_indented() {
        let mut page = Page::new();
        page.section("one");
        page.row("label", "word ".repeat(40));
        page.row("a label wider than its column", "value");
        let text = page.finish();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("  label           word word"), "{text}");
        assert!(lines[2].starts_with("                  word"), "{text}");
        assert!(text.contains("its column value"), "{text}");
        assert!(lines.iter().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn advice_comes_last_and_once() {
        let mut page = Page::new();
        page.advise("do this");
        page.section("one");
        page.advise("do this");
        assert_eq!(page.finish(), "one\n\nadvice\n  - do this");
    }
}
