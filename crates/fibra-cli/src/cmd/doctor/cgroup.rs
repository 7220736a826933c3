//! The CPU quota of the control group this process is in, version 1 or 2.
//!
//! The quota of every group above holds as well, so the smallest counts.

use std::fs;
use std::path::{Path, PathBuf};

/// A quota, and the file that sets it.
#[derive(Debug, PartialEq)]
pub struct Quota {
    /// How many cores' worth of time.
    pub cores: f64,
    /// Where it is written.
    pub source: PathBuf,
}

/// The smallest quota that holds for this process, if any can be found.
pub fn quota() -> Option<Quota> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    quota_under(Path::new("/sys/fs/cgroup"), &groups)
}

/// `groups` is the text of `/proc/self/cgroup`; `root` is where the hierarchies are mounted.
fn quota_under(root: &Path, groups: &str) -> Option<Quota> {
    let mut found = Vec::new();
    for line in groups.lines() {
        // Hierarchy number, controllers (none in version 2), path.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            found.extend(upwards(root, path).filter_map(|folder| version_2(&folder)));
        } else if controllers.split(',').any(|name| name == "cpu") {
            for mount in [controllers, "cpu", "cpu,cpuacct"] {
                let mount = root.join(mount);
                found.extend(upwards(&mount, path).filter_map(|folder| version_1(&folder)));
            }
        }
    }
    found.into_iter().min_by(|one, other| one.cores.total_cmp(&other.cores))
}

/// The folder of a group and of all above it. In a container the path may be one of the host's,
/// which is not there; then what is mounted at the root is our group.
fn upwards(root: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    let folder = root.join(path);
    let depth = folder.components().count() - root.components().count();
    let folders: Vec<PathBuf> = folder.ancestors().take(depth + 1).map(Path::to_owned).collect();
    folders.into_iter()
}

fn version_2(folder: &Path) -> Option<Quota> {
    let source = folder.join("cpu.max");
    let text = fs::read_to_string(&source).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    // "max" is no number, and no quota.
    ratio(quota, period).map(|cores| Quota { cores, source })
}

fn version_1(folder: &Path) -> Option<Quota> {
    let source = folder.join("cpu.cfs_quota_us");
    let quota = fs::read_to_string(&source).ok()?;
    let period = fs::read_to_string(folder.join("cpu.cfs_period_us")).ok()?;
    // -1 is no quota.
    ratio(&quota, &period).map(|cores| Quota { cores, source })
}

fn ratio(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for a test, gone afterwards.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let name = format!("fibra-cgroup-{name}-{}", std::process::id());
            let root = std::env::temp_dir().join(name);
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_smallest_quota_on_the_way_up_counts() {
        let tree = Tree::new(
            "v2",
            &[
                ("cpu.max", "max 100000\n"),
                ("a/cpu.max", "150000 100000\n"),
                ("a/b/cpu.max", "400000 100000\n"),
            ],
        );
        let quota = quota_under(&tree.0, "0::/a/b\n").unwrap();
        assert_eq!(quota, Quota { cores: 1.5, source: tree.0.join("a/cpu.max") });
    }

    #[test]
    fn version_1_is_found_under_its_controllers() {
        let tree = Tree::new(
            "v1",
            &[
                ("cpu,cpuacct/job/cpu.cfs_quota_us", "50000\n"),
                ("cpu,cpuacct/job/cpu.cfs_period_us", "100000\n"),
                ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
        );
        let groups = "5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n";
        assert_eq!(quota_under(&tree.0, groups).map(|quota| quota.cores), Some(0.5));
    }

    #[test]
    fn a_path_of_the_host_falls_back_to_what_is_mounted() {
        let tree = Tree::new("host", &[("cpu.max", "200000 100000\n")]);
        let quota = quota_under(&tree.0, "0::/somewhere/on/the/host\n");
        assert_eq!(quota.map(|quota| quota.cores), Some(2.0));
    }

    #[test]
    fn no_quota_and_no_files_are_none() {
        let tree = Tree::new("none", &[("cpu.max", "max 100000\n")]);
        assert_eq!(quota_under(&tree.0, "0::/\n"), None);
        assert_eq!(quota_under(Path::new("/nowhere"), "0::/a\n1:cpu:/\nrubbish\n"), None);
    }
}
