package clients

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func (w *world) postForm(address string, form map[string]string, answer any) {
	w.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.pki.CertPEM)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	values := url.Values{}
	for k, v := range form {
		values.Set(k, v)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		response, err := client.PostForm(address, values)
		if err == nil {
			defer response.Body.Close()
			w.must(json.NewDecoder(response.Body).Decode(answer))
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// layer is a tar file with one file of that content.
func (u *user) layer(name, content string) string {
	u.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	u.must(w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
	_, err := w.Write([]byte(content))
	u.must(err)
	u.must(w.Close())
	return u.write(name+".tar", b.String())
}

func (u *user) craneLogin(principal, host string) {
	u.t.Helper()
	u.run(u.refreshToken(principal, host), "crane", "auth", "login", host, "-u", nullUser, "--password-stdin")
}

func TestCrane(t *testing.T) {
	w := start(t)
	u := w.user("crane")
	u.craneLogin(owner, mine)
	// Push, pull, and what is pulled is what was pushed.
	u.run("", "crane", "append", "--new_layer", u.layer("one", strings.Repeat("one", 100_000)), "--new_tag", mine+"/team/app:1")
	u.run("", "crane", "append", "--new_layer", u.layer("two", "two"), "--new_tag", mine+"/team/app:2")
	u.run("", "crane", "validate", "--remote", mine+"/team/app:1")
	u.run("", "crane", "pull", mine+"/team/app:1", "app.tar")
	u.run("", "crane", "push", "app.tar", mine+"/again:1")
	digest := strings.TrimSpace(u.run("", "crane", "digest", mine+"/team/app:1"))

	// A copy within the registry mounts the layers.
	u.run("", "crane", "copy", mine+"/team/app:1", mine+"/copied/app:1")
	if got := strings.TrimSpace(u.run("", "crane", "digest", mine+"/copied/app:1")); got != digest {
		t.Errorf("copied: %s, want %s", got, digest)
	}
	if n := w.served("POST", "/v2/copied/app/blobs/uploads/", 201); n == 0 || w.served("POST", "/v2/copied/app/blobs/uploads/", 202) != 0 {
		t.Errorf("%d layers were mounted, %d uploaded", n, w.served("POST", "/v2/copied/app/blobs/uploads/", 202))
	}
	// A list of manifests.
	u.run("", "crane", "index", "append", "-m", mine+"/team/app:1", "-m", mine+"/team/app:2", "-t", mine+"/team/app:all")
	u.run("", "crane", "validate", "--remote", mine+"/team/app:all")
	list := decode[struct{ Manifests []struct{ Digest string } }](t, u.run("", "crane", "manifest", mine+"/team/app:all"))
	if len(list.Manifests) != 2 || list.Manifests[0].Digest != digest {
		t.Errorf("%+v", list)
	}
	u.run("", "crane", "tag", mine+"/team/app:1", "stable")
	if got := strings.Fields(u.run("", "crane", "ls", mine+"/team/app")); !slices.Equal(got, []string{"1", "2", "all", "stable"}) {
		t.Errorf("tags: %v", got)
	}
	if got := strings.Fields(u.run("", "crane", "catalog", mine)); !slices.Equal(got, []string{"again", "copied/app", "team/app"}) {
		t.Errorf("catalog: %v", got)
	}
	u.run("", "crane", "delete", mine+"/copied/app@"+digest)
	u.refused("MANIFEST_UNKNOWN", "crane", "manifest", mine+"/copied/app:1")
	u.run("", "crane", "validate", "--remote", mine+"/team/app:1")

	// Through a cache rule, with the upstream's digest.
	const image = "oss/kubernetes/pause:3.9"
	want := strings.TrimSpace(u.run("", "crane", "digest", "mcr.microsoft.com/"+image))
	u.run("", "crane", "pull", mine+"/cached/"+image, "pause.tar")
	if got := strings.TrimSpace(u.run("", "crane", "digest", mine+"/cached/"+image)); got != want {
		t.Errorf("cached: %s, want %s", got, want)
	}
}

// Each role does what it is for, and no more.
func TestRoles(t *testing.T) {
	w := start(t)
	boss, reader, writer, stranger := w.user("owner"), w.user("reader"), w.user("writer"), w.user("stranger")
	for principal, u := range map[string]*user{owner: boss, puller: reader, pusher: writer, nobody: stranger} {
		u.craneLogin(principal, mine)
		u.run(u.refreshToken(principal, mine), "oras", "login", mine, "-u", nullUser, "--password-stdin")
	}
	layer := writer.layer("layer", "content")
	writer.run("", "crane", "append", "--new_layer", layer, "--new_tag", mine+"/app:1")
	digest := strings.TrimSpace(reader.run("", "crane", "digest", mine+"/app:1"))
	reader.run("", "crane", "validate", "--remote", mine+"/app:1")
	const denied = "authentication required, visit https://aka.ms/acr/authorization for more information."
	reader.refused(denied, "crane", "tag", mine+"/app:1", "mine")
	reader.refused("UNAUTHORIZED", "crane", "delete", mine+"/app@"+digest)
	writer.refused("UNAUTHORIZED", "crane", "delete", mine+"/app@"+digest)
	writer.refused("unauthorized", "oras", "manifest", "delete", "--force", mine+"/app@"+digest)
	stranger.refused(denied, "crane", "manifest", mine+"/app:1")
	stranger.refused(denied, "crane", "catalog", mine)
	w.user("anonymous").refused(denied, "crane", "manifest", mine+"/app:1")
	boss.run("", "crane", "delete", mine+"/app@"+digest)

	// The admin user needs a password and no identity.
	admin := w.user("admin")
	admin.refused("", "crane", "manifest", mine+"/nothing:1")
	admin.run("the admin's password", "crane", "auth", "login", mine, "-u", "minereg", "--password-stdin")
	admin.run("", "crane", "append", "--new_layer", layer, "--new_tag", mine+"/app:2")
	admin.run("the admin's password", "skopeo", "login", "-u", "minereg", "--password-stdin", mine)
	admin.run("", "skopeo", "delete", "docker://"+mine+"/app:2")
}

// The public side, open and closed, with and without anonymous pull.
func TestPublicSide(t *testing.T) {
	w := start(t)
	u := w.user("someone")
	for _, command := range [][]string{
		{"crane", "manifest", closed + "/app:1"}, {"crane", "catalog", closed}, {"oras", "repo", "ls", closed},
	} {
		u.refused("client with IP '127.0.0.1' is not allowed access. Refer https://aka.ms/acr/firewall to grant access.", command...)
	}
	u.refused("invalid status code from registry 403 (Forbidden)", "skopeo", "inspect", "docker://"+closed+"/app:1")
	boss := w.user("owner")
	boss.craneLogin(owner, other)
	boss.run("", "crane", "append", "--new_layer", boss.layer("layer", "content"), "--new_tag", other+"/app:1")
	u.run("", "crane", "validate", "--remote", other+"/app:1")
	u.run("", "oras", "repo", "ls", other)
	u.run("", "skopeo", "inspect", "docker://"+other+"/app:1")
	u.refused("UNAUTHORIZED", "crane", "tag", other+"/app:1", "2")

	// Without a restart: closed now, and open again with anonymous pull off.
	w.config.Registries[1].PublicAccess = false
	w.apply()
	eventually(t, func() bool { _, err := u.try("", "crane", "manifest", other+"/app:1"); return err != nil })
	u.refused("DENIED", "crane", "manifest", other+"/app:1")
	w.config.Registries[1].PublicAccess, w.config.Registries[1].AnonymousPull = true, false
	w.apply()
	eventually(t, func() bool { _, err := boss.try("", "crane", "manifest", other+"/app:1"); return err == nil })
	u.refused("UNAUTHORIZED", "crane", "manifest", other+"/app:1")
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to be")
		}
	}
}

func TestOras(t *testing.T) {
	w := start(t)
	u := w.user("oras")
	u.run(u.refreshToken(owner, mine), "oras", "login", mine, "--identity-token-stdin")
	u.write("model.bin", strings.Repeat("weights ", 1000))
	u.write("sbom.json", `{"bom":true}`)
	u.write("signature", "signed")
	u.run("", "oras", "push", "--artifact-type", "application/vnd.example.model", mine+"/models/a:v1", "model.bin:application/octet-stream")
	u.run("", "oras", "attach", "--artifact-type", "example/sbom", mine+"/models/a:v1", "sbom.json")
	u.run("", "oras", "attach", "--artifact-type", "example/signature", mine+"/models/a:v1", "signature")
	type found struct {
		Referrers []struct{ ArtifactType, Digest string }
	}
	all := decode[found](t, u.run("", "oras", "discover", "--format", "json", mine+"/models/a:v1"))
	kinds := map[string]string{}
	for _, r := range all.Referrers {
		kinds[r.ArtifactType] = r.Digest
	}
	if len(all.Referrers) != 2 || kinds["example/sbom"] == "" || kinds["example/signature"] == "" {
		t.Errorf("referrers: %+v", all)
	}
	if one := decode[found](t, u.run("", "oras", "discover", "--format", "json", "--artifact-type", "example/sbom", mine+"/models/a:v1")); len(one.Referrers) != 1 || one.Referrers[0].ArtifactType != "example/sbom" {
		t.Errorf("of one kind: %+v", one)
	}
	// No tag was made for them: the registry has the referrers API.
	if got := strings.Fields(u.run("", "oras", "repo", "tags", mine+"/models/a")); !slices.Equal(got, []string{"v1"}) {
		t.Errorf("tags: %v", got)
	}
	u.run("", "oras", "pull", "-o", "out", mine+"/models/a:v1")
	got, err := os.ReadFile(filepath.Join(u.home, "out", "model.bin"))
	if err != nil || len(got) != 8000 {
		t.Errorf("pulled: %d bytes, %v", len(got), err)
	}
	// With all that refers to it, to another repository.
	u.run("", "oras", "cp", "-r", mine+"/models/a:v1", mine+"/released/a:v1")
	if copied := decode[found](t, u.run("", "oras", "discover", "--format", "json", mine+"/released/a:v1")); len(copied.Referrers) != 2 {
		t.Errorf("copied: %+v", copied)
	}
	u.run("", "oras", "manifest", "delete", "--force", mine+"/models/a@"+kinds["example/sbom"])
	if left := decode[found](t, u.run("", "oras", "discover", "--format", "json", mine+"/models/a:v1")); len(left.Referrers) != 1 || left.Referrers[0].ArtifactType != "example/signature" {
		t.Errorf("after one was deleted: %+v", left)
	}
	// Blobs by themselves.
	blob := u.write("blob", "content of a blob")
	descriptor := decode[struct{ Digest string }](t, u.run("", "oras", "blob", "push", "--descriptor", mine+"/models/a", blob))
	if out := u.run("", "oras", "blob", "fetch", "--output", "-", mine+"/models/a@"+descriptor.Digest); out != "content of a blob" {
		t.Errorf("blob: %q", out)
	}
	u.run("", "oras", "blob", "delete", "--force", mine+"/models/a@"+descriptor.Digest)
	u.refused("not found", "oras", "blob", "fetch", "--output", "-", mine+"/models/a@"+descriptor.Digest)
	// As a node does it: an artifact through the cache.
	u.run("", "oras", "pull", "-o", "node", mine+"/cached/oss/binaries/kubernetes/azure-acr-credential-provider:v1.32.3-linux-amd64")
	if files, err := os.ReadDir(filepath.Join(u.home, "node")); err != nil || len(files) == 0 {
		t.Errorf("%v, %v", files, err)
	}
}

func TestSkopeo(t *testing.T) {
	w := start(t)
	u := w.user("skopeo")
	u.run(u.refreshToken(owner, mine), "skopeo", "login", "-u", nullUser, "--password-stdin", mine)
	cached := "docker://" + mine + "/cached/oss/kubernetes/coredns:v1.11.3"
	u.run("", "skopeo", "copy", "--all", cached, "docker://"+mine+"/kept/coredns:v1")
	u.run("", "skopeo", "copy", cached, "oci:layout:v1")
	u.run("", "skopeo", "copy", "--format", "v2s2", "oci:layout:v1", "docker://"+mine+"/kept/coredns:docker")
	type inspected struct {
		Name, Digest, Architecture string
		RepoTags                   []string
	}
	got := decode[inspected](t, u.run("", "skopeo", "inspect", "docker://"+mine+"/kept/coredns:v1"))
	if got.Name != mine+"/kept/coredns" || !slices.Equal(got.RepoTags, []string{"docker", "v1"}) || got.Architecture == "" {
		t.Errorf("%+v", got)
	}
	if want := decode[inspected](t, u.run("", "skopeo", "inspect", "--no-tags", cached)); want.Digest != got.Digest {
		t.Errorf("the copy is %s, the cached %s", got.Digest, want.Digest)
	}
	if tags := decode[struct{ Tags []string }](t, u.run("", "skopeo", "list-tags", "docker://"+mine+"/kept/coredns")); !slices.Equal(tags.Tags, []string{"docker", "v1"}) {
		t.Errorf("%+v", tags)
	}
	u.run("", "skopeo", "delete", "docker://"+mine+"/kept/coredns:docker")
	u.refused("manifest unknown", "skopeo", "inspect", "docker://"+mine+"/kept/coredns:docker")
}

func TestHelm(t *testing.T) {
	w := start(t)
	u := w.user("helm")
	u.run(u.refreshToken(owner, mine), "helm", "registry", "login", mine, "-u", nullUser, "--password-stdin")
	u.run("", "helm", "create", "web")
	u.run("", "helm", "package", "web")
	u.run("", "helm", "push", "web-0.1.0.tgz", "oci://"+mine+"/charts")
	if shown := u.run("", "helm", "show", "chart", "oci://"+mine+"/charts/web", "--version", "0.1.0"); !strings.Contains(shown, "\nname: web\n") {
		t.Errorf("%s", shown)
	}
	u.run("", "helm", "pull", "oci://"+mine+"/charts/web", "--untar", "--untardir", "out")
	if _, err := os.Stat(filepath.Join(u.home, "out", "web", "Chart.yaml")); err != nil {
		t.Error(err)
	}
	if rendered := u.run("", "helm", "template", "oci://"+mine+"/charts/web"); !strings.Contains(rendered, "kind: Deployment") {
		t.Errorf("%s", rendered)
	}
	stranger := w.user("stranger")
	stranger.refused("authentication required", "helm", "pull", "oci://"+mine+"/charts/web", "--version", "0.1.0")
}

// containerd, and so nerdctl and Kubernetes, by its own command.
func TestContainerd(t *testing.T) {
	w := start(t)
	u := w.user("containerd")
	u.craneLogin(owner, mine)
	u.run("", "crane", "append", "--new_layer", u.layer("one", strings.Repeat("one", 10_000)), "--new_tag", mine+"/app:1")
	short, err := os.MkdirTemp("", "c")
	w.must(err)
	t.Cleanup(func() { os.RemoveAll(short) })
	socket := filepath.Join(short, "s")
	config := u.write("config.toml", fmt.Sprintf("version = 3\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n",
		filepath.Join(u.home, "root"), filepath.Join(short, "state"), socket, socket+".ttrpc"))
	ctx, stop := context.WithCancel(context.Background())
	daemon := exec.CommandContext(ctx, filepath.Join(u.bin, "containerd"), "-c", config)
	daemon.Env = append(os.Environ(), "SSL_CERT_FILE="+filepath.Join(w.dir, "root.crt"), "TMPDIR="+short)
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	daemon.Stdout, daemon.Stderr = &log, &log
	w.must(daemon.Start())
	t.Cleanup(func() {
		stop()
		_ = daemon.Wait()
		if t.Failed() {
			t.Logf("containerd said:\n%s", log.String())
		}
	})
	login := nullUser + ":" + u.refreshToken(owner, mine)
	ctr := func(args ...string) []string { return append([]string{"ctr", "-a", socket}, args...) }
	eventually(t, func() bool { _, err := u.try("", ctr("version")...); return err == nil })
	u.run("", ctr("content", "fetch", "--user", login, mine+"/app:1")...)
	u.run("", ctr("images", "push", "--user", login, mine+"/pushed:1", mine+"/app:1")...)
	if a, b := u.run("", "crane", "digest", mine+"/app:1"), u.run("", "crane", "digest", mine+"/pushed:1"); a != b {
		t.Errorf("pushed %s, fetched %s", b, a)
	}
	u.run("", ctr("content", "fetch", "--user", login, mine+"/cached/oss/kubernetes/pause:3.9")...)
	u.refused("401", ctr("content", "fetch", mine+"/app:1")...)
}
