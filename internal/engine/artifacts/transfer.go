package artifacts

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// capabilityXattr is the one extended attribute of Debian packages' files.
const capabilityXattr = "security.capability"

// xattrPAX is how GNU tar and others name extended attributes in PAX records.
const xattrPAX = "SCHILY.xattr."

// Export writes the current set, with the parts it is made of, as a tar archive that Import reads on another machine
// of the same architecture, which then needs neither Go nor Debian's tools.
func Export(ctx context.Context, cacheDir string, w io.Writer) error {
	id, err := os.Readlink(filepath.Join(cacheDir, currentLink))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("export: %w in %s", ErrNotBuilt, cacheDir)
	}
	if err != nil {
		return fmt.Errorf("export artifacts: %w", err)
	}
	ids, err := withInputs(cacheDir, filepath.Base(id))
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	links := map[[2]uint64]string{} // device and inode → name in the archive
	for _, id := range ids {
		err := filepath.WalkDir(filepath.Join(cacheDir, id), func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return exportFile(t, cacheDir, name, d, links)
		})
		if err != nil {
			return fmt.Errorf("export %s: %w", id, err)
		}
	}
	return t.Close()
}

// withInputs returns the IDs of a part and all it was made from, inputs first and the part itself last.
func withInputs(cacheDir, id string) ([]string, error) {
	var ids []string
	var visit func(string) error
	visit = func(id string) error {
		if slices.Contains(ids, id) {
			return nil
		}
		p, err := readPart(cacheDir, id)
		if err != nil {
			return fmt.Errorf("part %s: %w", id, err)
		}
		for _, in := range slices.Sorted(maps.Values(p.Inputs)) {
			if err := visit(in); err != nil {
				return err
			}
		}
		ids = append(ids, id)
		return nil
	}
	return ids, visit(id)
}

func exportFile(t *tar.Writer, cacheDir, name string, d fs.DirEntry, links map[[2]uint64]string) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	if h.Name, err = filepath.Rel(cacheDir, name); err != nil {
		return err
	}
	h.Format = tar.FormatPAX
	h.Uname, h.Gname = "", "" // numbers count: the tree has its own users
	if info.IsDir() {
		h.Name += "/"
		return t.WriteHeader(h)
	}
	st := info.Sys().(*syscall.Stat_t)
	inode := [2]uint64{st.Dev, st.Ino}
	if first, ok := links[inode]; ok && st.Nlink > 1 {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		return t.WriteHeader(h)
	}
	links[inode] = h.Name
	if !info.Mode().IsRegular() {
		return t.WriteHeader(h)
	}
	value := make([]byte, 256)
	if n, err := unix.Lgetxattr(name, capabilityXattr, value); err == nil {
		h.PAXRecords = map[string]string{xattrPAX + capabilityXattr: string(value[:n])}
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(t, f)
	return err
}

// Import reads what Export wrote, checks each part against its recorded digest, puts those that are missing into the
// cache and makes the set the current one. The archive is trusted as the programs in it are; the digests show damage.
func Import(ctx context.Context, cacheDir string, r io.Reader) (Set, error) {
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return Set{}, fmt.Errorf("make artifact cache: %w", err)
	}
	unlock, err := lock(ctx, cacheDir, func() {})
	if err != nil {
		return Set{}, err
	}
	defer unlock()
	if err := removeStaging(cacheDir); err != nil {
		return Set{}, err
	}
	staging, err := os.MkdirTemp(cacheDir, stagingPrefix+"import.")
	if err != nil {
		return Set{}, err
	}
	defer os.RemoveAll(staging)
	ids, err := extract(ctx, staging, r)
	if err != nil {
		return Set{}, fmt.Errorf("import artifacts: %w", err)
	}
	if len(ids) == 0 {
		return Set{}, errors.New("import artifacts: the archive is empty")
	}
	for _, id := range ids {
		if err := importPart(cacheDir, staging, id); err != nil {
			return Set{}, fmt.Errorf("import artifacts: %w", err)
		}
	}
	set := ids[len(ids)-1]
	if p, err := readPart(cacheDir, set); err != nil || p.Name != partSet {
		return Set{}, fmt.Errorf("import artifacts: the archive ends with %s, not with a set", set)
	}
	if err := setCurrent(cacheDir, set); err != nil {
		return Set{}, err
	}
	return openSet(cacheDir, set)
}

func importPart(cacheDir, staging, id string) error {
	p, err := readPart(staging, id)
	if err != nil {
		return fmt.Errorf("part %s: %w", id, err)
	}
	if p.ID != id {
		return fmt.Errorf("part %s says it is %s", id, p.ID)
	}
	if p.Arch != arch() {
		return fmt.Errorf("part %s is for %s, and this machine is %s", id, p.Arch, arch())
	}
	_, digest, err := treeDigest(filepath.Join(staging, id))
	if err != nil {
		return err
	}
	if digest != p.Digest {
		return fmt.Errorf("part %s is damaged: its digest is %s, not %s", id, digest, p.Digest)
	}
	if _, err := readPart(cacheDir, id); err == nil {
		return nil
	}
	return publish(cacheDir, filepath.Join(staging, id), p)
}

// extract unpacks the archive and returns its top-level directories in order. Nothing in it can lead outside dir.
func extract(ctx context.Context, dir string, r io.Reader) ([]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var ids []string
	modes := map[string]fs.FileMode{} // of directories, set last: one may not be writable
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		if !fs.ValidPath(name) || name == "." {
			return nil, fmt.Errorf("the archive has a file called %q", h.Name)
		}
		if id, _, below := strings.Cut(name, "/"); !below {
			if h.Typeflag != tar.TypeDir {
				return nil, fmt.Errorf("the archive has %q beside its parts", h.Name)
			}
			ids = append(ids, id)
		}
		if h.Typeflag == tar.TypeDir {
			modes[name] = h.FileInfo().Mode()
		}
		if err := extractFile(root, name, h, t); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, mode := range modes {
		if err := root.Chmod(name, mode); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

func extractFile(root *os.Root, name string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o700); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
	case tar.TypeLink:
		return root.Link(h.Linkname, name)
	case tar.TypeReg:
		return extractRegular(root, name, h, content)
	default:
		return fmt.Errorf("unexpected type %q", h.Typeflag)
	}
	return chown(root, name, h)
}

func extractRegular(root *os.Root, name string, h *tar.Header, content io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	// Changing the owner clears set-user-ID and capabilities, so it comes first.
	if err := chown(root, name, h); err != nil {
		return err
	}
	if err := f.Chmod(h.FileInfo().Mode()); err != nil {
		return err
	}
	if value, ok := h.PAXRecords[xattrPAX+capabilityXattr]; ok {
		if err := unix.Fsetxattr(int(f.Fd()), capabilityXattr, []byte(value), 0); err != nil {
			return fmt.Errorf("set file capabilities: %w", err)
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime)
}

// chown gives the file its owner. Who is not root keeps what is his own and cannot import another's.
func chown(root *os.Root, name string, h *tar.Header) error {
	if os.Geteuid() != 0 && h.Uid == os.Geteuid() && h.Gid == os.Getegid() {
		return nil
	}
	return root.Lchown(name, h.Uid, h.Gid)
}
