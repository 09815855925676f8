package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// machine is the node this program runs on.
func machine() Environment {
	return Environment{
		Root:       "/",
		IMDS:       "http://169.254.169.254",
		Dial:       (&net.Dialer{}).DialContext,
		LookupHost: net.DefaultResolver.LookupHost,
		Services:   s6{dir: "/run/service"},
		Runtime:    cri{},
		Firewall:   wireServerRules,
	}
}

// s6 is the supervisor that is the node's first process.
type s6 struct{ dir string }

// Start tells the service's supervisor to start it, as s6-svc -u does, and waits for its process.
func (s s6) Start(ctx context.Context, name string) error {
	service := filepath.Join(s.dir, name)
	if err := remove(filepath.Join(service, "down")); err != nil {
		return err
	}
	// The supervisor itself is being started beside this program.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := tell(service, "u")
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENXIO) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the supervisor of %s does not run: %w", name, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	out, err := exec.CommandContext(ctx, "s6-svwait", "-u", "-t", "5000", service).CombinedOutput()
	if err != nil {
		return fmt.Errorf("wait for %s: %w: %s", name, err, out)
	}
	return nil
}

// tell sends a supervisor a command, when it listens: fs.ErrNotExist or ENXIO until then. It opens its control pipe a moment before it
// writes its first status, without which s6-svwait fails.
func tell(service, command string) error {
	supervise := filepath.Join(service, "supervise")
	if _, err := os.Stat(filepath.Join(supervise, "status")); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(supervise, "control"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(command)
	return errors.Join(err, f.Close())
}

// cri is the node's containerd.
type cri struct{}

// Ready waits until containerd's socket is there and answers.
func (cri) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := waitForFile(ctx, containerdSocket); err != nil {
		return err
	}
	client, err := containerd.New(containerdSocket)
	if err != nil {
		return err
	}
	defer client.Close()
	serving, err := client.IsServing(ctx)
	if err == nil && !serving {
		err = errors.New("it is not serving")
	}
	return err
}

func (cri) Import(ctx context.Context, name string, archive io.Reader) error {
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	client, err := containerd.New(containerdSocket)
	if err != nil {
		return err
	}
	defer client.Close()
	imported, err := client.Import(ctx, archive, containerd.WithImageLabels(map[string]string{
		"io.cri-containerd.image": "managed", "io.cri-containerd.pinned": "pinned",
	}))
	if err != nil {
		return err
	}
	if len(imported) != 1 || imported[0].Name != name {
		return fmt.Errorf("imported %d images, want only %s", len(imported), name)
	}
	return containerd.NewImage(client, imported[0]).Unpack(ctx, "overlayfs")
}

// Pull asks containerd as the kubelet does, so that the image comes from the mirror and is the kubelet's to use.
func (cri) Pull(ctx context.Context, name, user, password string) error {
	conn, err := grpc.NewClient("unix://"+containerdSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	request := &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: name}}
	if password != "" {
		request.Auth = &runtime.AuthConfig{Username: user, Password: password}
	}
	if _, err := runtime.NewImageServiceClient(conn).PullImage(ctx, request); err != nil {
		return fmt.Errorf("pull %s: %w", name, err)
	}
	return nil
}

// waitForFile waits until path exists.
func waitForFile(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", path, ctx.Err())
		case err := <-watcher.Errors:
			return err
		case <-watcher.Events:
		}
	}
}

// wireServerRules drops what pods send to the wire server's ports; DNS on the same address stays open.
func wireServerRules(ctx context.Context) error {
	for _, port := range []string{"80", "32526"} {
		rule := []string{"FORWARD", "-d", "168.63.129.16", "-p", "tcp", "--dport", port, "-j", "DROP"}
		// The network namespace, and with it an earlier rule, survives a restart of the node.
		if exec.CommandContext(ctx, "iptables", append([]string{"-w", "-C"}, rule...)...).Run() == nil {
			continue
		}
		if out, err := exec.CommandContext(ctx, "iptables", append([]string{"-w", "-I"}, rule...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("iptables -I: %w: %s", err, out)
		}
	}
	return nil
}
