// Package rootfs gives a container in a user namespace its own writable copy of a shared root file
// system, in milliseconds and without copying a byte.
//
// The shared tree is cloned with its ids mapped through the user namespace (mount_setattr(2),
// MOUNT_ATTR_IDMAP) and becomes the lower directory of an overlay whose upper directory belongs to the
// namespace's root. The package knows nothing of nodes, containers or clusters.
package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Spec is one root file system.
type Spec struct {
	Lower   string // the shared tree, only ever read
	Disk    string // directory on a real file system; holds upper and work
	UserNS  string // file that pins the user namespace whose map shifts the ids
	UIDBase uint32 // host id of the namespace's root
	GIDBase uint32
	Target  string // where it is mounted
}

// Mount mounts the root file system at spec.Target. It is no error when it is mounted there already.
//
// The directory above Target is made reachable for the namespace's root alone: a setuid file of the node is
// no way to anything for other users of the host.
func Mount(spec Spec) error {
	if mounted, err := IsMounted(spec.Target); err != nil {
		return err
	} else if mounted {
		return nil
	}
	upper, work, lower := filepath.Join(spec.Disk, "upper"), filepath.Join(spec.Disk, "work"), filepath.Join(spec.Disk, "lower")
	for _, path := range []string{spec.Lower, upper, work, lower} {
		// mount(2) takes the overlay's options as one string that these characters would cut up.
		if strings.ContainsAny(path, ",:\\") {
			return fmt.Errorf("path %q cannot be part of an overlay: it holds a comma, colon or backslash", path)
		}
	}
	if err := os.MkdirAll(lower, 0o700); err != nil {
		return err
	}
	parent := filepath.Dir(spec.Target)
	if err := os.MkdirAll(filepath.Dir(parent), 0o711); err != nil {
		return err
	}
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{upper, 0o755}, {work, 0o700}, {parent, 0o700}, {spec.Target, 0o755}} {
		if err := OwnedDir(dir.path, dir.mode, spec.UIDBase, spec.GIDBase); err != nil {
			return err
		}
	}
	if err := idmap(spec.Lower, lower, spec.UserNS); err != nil {
		return err
	}
	// The overlay keeps a private clone of its layers, so the helper mount can go at once: one mount
	// per node is left.
	defer unix.Unmount(lower, unix.MNT_DETACH) //nolint:errcheck // at worst one mount more per node
	options := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", spec.Target, "overlay", unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount overlay of %s at %s: %w", spec.Lower, spec.Target, err)
	}
	return nil
}

// Unmount takes the root file system away from target and removes the directories Mount made for it.
// Nothing there is no error.
func Unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	for _, path := range []string{target, filepath.Dir(target)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

// IsMounted reports whether an overlay is mounted at path.
func IsMounted(path string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(path, &here); errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	if err := unix.Lstat(filepath.Dir(path), &above); err != nil {
		return false, fmt.Errorf("stat the directory of %s: %w", path, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, fmt.Errorf("statfs %s: %w", path, err)
	}
	return here.Dev != above.Dev && st.Type == unix.OVERLAYFS_SUPER_MAGIC, nil
}

// OwnedDir makes the directory path, whose parent exists, with exactly this mode and owner.
func OwnedDir(path string, mode os.FileMode, uid, gid uint32) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return os.Lchown(path, int(uid), int(gid))
}

// idmap mounts source at target with ids shifted through the user namespace pinned at userns.
func idmap(source, target, userns string) error {
	ns, err := os.Open(userns)
	if err != nil {
		return fmt.Errorf("open user namespace: %w", err)
	}
	defer ns.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree %s: %w", source, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{
		Attr_set:  unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV,
		Userns_fd: uint64(ns.Fd()),
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("map the ids of %s: the kernel must be 5.12 or newer (5.19 for overlayfs on top) and the file system must support id-mapped mounts: %w", source, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount to %s: %w", target, err)
	}
	return nil
}
