package cli

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cloister-dev/cloister/internal/lib/adminapi"
	"github.com/cloister-dev/cloister/internal/lib/atomicfile"
)

// Account is who the commands of a session run as.
type Account struct {
	UID, GID          int
	Groups            []int
	Name, Home, Shell string
}

// tempDir is the directory for temporary files, if the account can come there. TMPDIR may be root's alone after sudo, as with
// libpam-tmpdir, by which every user has a directory of his own.
func (a Account) tempDir() string {
	dir := os.TempDir()
	for at := dir; ; at = filepath.Dir(at) {
		if !a.passes(at) {
			return "/tmp"
		}
		if at == filepath.Dir(at) {
			return dir
		}
	}
}

// passes reports whether the account may go through a directory, by its permission bits.
func (a Account) passes(dir string) bool {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return false
	}
	switch {
	case a.UID == 0:
		return true
	case int(st.Uid) == a.UID:
		return st.Mode&0o100 != 0
	case int(st.Gid) == a.GID || slices.Contains(a.Groups, int(st.Gid)):
		return st.Mode&0o010 != 0
	}
	return st.Mode&0o001 != 0
}

// caller is the user that has called sudo, or else the one that runs this program.
func caller() (Account, error) {
	a := Account{UID: os.Getuid(), GID: os.Getgid(), Home: os.Getenv("HOME"), Shell: envOr("SHELL", "/bin/sh")}
	id := os.Getenv("SUDO_UID")
	if a.UID != 0 || id == "" || id == "0" {
		return a, nil
	}
	u, err := user.LookupId(id)
	if err != nil {
		return a, fmt.Errorf("find the user who called sudo: %w", err)
	}
	a.Name, a.Home = u.Username, u.HomeDir
	if a.UID, err = strconv.Atoi(u.Uid); err != nil {
		return a, fmt.Errorf("user %s: %w", u.Username, err)
	}
	if a.GID, err = strconv.Atoi(u.Gid); err != nil {
		return a, fmt.Errorf("user %s: %w", u.Username, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return a, fmt.Errorf("find the groups of %s: %w", u.Username, err)
	}
	for _, g := range groups {
		n, err := strconv.Atoi(g)
		if err != nil {
			return a, fmt.Errorf("group of %s: %w", u.Username, err)
		}
		a.Groups = append(a.Groups, n)
	}
	return a, nil
}

// desk is where a user's workstation keeps what it has beside the user's own files: what az remembers, and a key.
func desk(dataDir string, a Account) (string, error) {
	dir := filepath.Join(dataDir, "workstations", strconv.Itoa(a.UID))
	azure := filepath.Join(dir, "azure")
	if err := os.MkdirAll(azure, 0o700); err != nil {
		return "", err
	}
	return dir, os.Chown(azure, a.UID, a.GID)
}

// ensureSSHKey is the throw-away key of a desk: az wants one to make a cluster, whose nodes take no logins.
func ensureSSHKey(desk string) (private, public []byte, err error) {
	path := filepath.Join(desk, "id_rsa")
	private, err = os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, nil, err
		}
		private = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
		if err := atomicfile.Write(path, private, 0o600); err != nil {
			return nil, nil, err
		}
	} else if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(private)
	if block == nil {
		return nil, nil, fmt.Errorf("%s holds no key", path)
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	return private, authorizedKey(&key.PublicKey), nil
}

// authorizedKey is a public key as ssh writes it (RFC 4253, section 6.6).
func authorizedKey(key *rsa.PublicKey) []byte {
	var blob []byte
	add := func(field []byte) {
		blob = append(binary.BigEndian.AppendUint32(blob, uint32(len(field))), field...)
	}
	integer := func(b []byte) []byte { // the leading zero says that it is not negative
		if b[0]&0x80 != 0 {
			return append([]byte{0}, b...)
		}
		return b
	}
	exponent := binary.BigEndian.AppendUint32(nil, uint32(key.E))
	for exponent[0] == 0 {
		exponent = exponent[1:]
	}
	add([]byte("ssh-rsa"))
	add(integer(exponent))
	add(integer(key.N.Bytes()))
	return []byte("ssh-rsa " + base64.StdEncoding.EncodeToString(blob) + " cloister-throw-away\n")
}

// lendSSHKey puts the throw-away key into the session, for a user who has no key that az would take. To be seen in
// ~/.ssh it needs a directory there to be bound over. Where there is none, an empty one is made, and the function
// returned takes it away when the last session ends that was lent a key.
func lendSSHKey(session, desk string, a Account) (end func(), err error) {
	own := filepath.Join(a.Home, ".ssh")
	end = func() {}
	if _, err := os.Stat(filepath.Join(own, "id_rsa.pub")); err == nil || a.Home == "" {
		return end, nil
	}
	lock, err := os.OpenFile(filepath.Join(desk, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return end, err
	}
	made := filepath.Join(desk, "made-ssh")
	end = func() {
		defer lock.Close()
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return // another session is on it
		}
		if _, err := os.Stat(made); err == nil {
			_ = os.Remove(own) // unless it is empty no more
			_ = os.Remove(made)
		}
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH); err != nil {
		return end, err
	}
	if _, err := os.Stat(own); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(made, nil, 0o600); err != nil {
			return end, err
		}
		if err := os.Mkdir(own, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return end, fmt.Errorf("show a throw-away ssh key: %w", err)
		}
		if err := os.Chown(own, a.UID, a.GID); err != nil {
			return end, err
		}
	}
	private, public, err := ensureSSHKey(desk)
	if err != nil {
		return end, fmt.Errorf("make an ssh key: %w", err)
	}
	dir := filepath.Join(session, "ssh")
	for _, d := range []string{dir, filepath.Join(session, "own-ssh")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return end, err
		}
	}
	for name, data := range map[string][]byte{"id_rsa": private, "id_rsa.pub": public} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return end, err
		}
		if err := os.Chown(path, a.UID, a.GID); err != nil {
			return end, err
		}
	}
	return end, os.Chown(dir, a.UID, a.GID)
}

// loginEnv are the names by which SDKs, Terraform and az's own scripts know who they are.
func loginEnv(l *adminapi.Login) map[string]string {
	env := map[string]string{"AZURE_USERNAME": l.Username, "AZURE_PASSWORD": l.Password}
	for _, prefix := range []string{"AZURE_", "ARM_"} {
		env[prefix+"TENANT_ID"], env[prefix+"SUBSCRIPTION_ID"] = l.TenantID, l.SubscriptionID
		env[prefix+"CLIENT_ID"], env[prefix+"CLIENT_SECRET"] = l.ClientID, l.ClientSecret
	}
	return env
}

// azEnv is what az is told: a directory of its own, and nothing to phone home with.
func azEnv(configDir string) map[string]string {
	return map[string]string{
		"AZURE_CONFIG_DIR": configDir, "AZURE_CORE_COLLECT_TELEMETRY": "false", "AZURE_CORE_SURVEY_MESSAGE": "false",
		"AZURE_CORE_LOGIN_EXPERIENCE_V2": "false", // with one subscription there is nothing to choose
	}
}
