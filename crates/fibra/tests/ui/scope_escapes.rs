//! Neither a scope nor a handle on one of its children leaves it.

fn main() {
    fibra::run(|| {
        let mut kept = None;
        let text = String::from("borrowed");
        fibra::scope(|scope| {
            kept = Some(scope.spawn(|| text.len()));
        });
        kept.map(|handle| handle.join())
    });
}
