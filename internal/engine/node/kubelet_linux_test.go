package node_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/cloister-dev/cloister/internal/engine/node/bootstrap"
	"github.com/cloister-dev/cloister/internal/lib/netns"
)

const adminToken = "admin-token-of-the-test"

// controlPlane runs etcd, kube-apiserver and kube-controller-manager where the node expects its API server, and returns
// a client. Who may do what is not what is tested here: everything is allowed.
func controlPlane(t *testing.T, in *installation, s *surroundings, guest, nodeToken string) *kubernetes.Clientset {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyPEM := func(key *ecdsa.PrivateKey) string {
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	}
	serving := s.authority.serving(t, apiName).Certificates[0]
	ca, caKey := write("ca.crt", s.authority.pem), write("ca.key", keyPEM(s.authority.key))
	cert := write("server.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: serving.Certificate[0]})))
	key := write("server.key", keyPEM(serving.PrivateKey.(*ecdsa.PrivateKey)))
	tokens := write("tokens", adminToken+`,admin,1,"system:masters"`+"\n"+nodeToken+`,bootstrap,2,"system:bootstrappers"`+"\n")
	kubeconfig := write("kubeconfig", fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c",
"clusters":[{"name":"c","cluster":{"server":"https://%s:443","tls-server-name":%q,"certificate-authority":%q}}],
"users":[{"name":"u","user":{"token":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`, apiAddress, apiName, ca, adminToken))

	run := func(args ...string) {
		log, err := os.Create(filepath.Join(dir, args[0]+".log"))
		if err != nil {
			t.Fatal(err)
		}
		args[0] = filepath.Join(in.artifacts.Bin, args[0])
		// They sit where the node's routes lead: beside it, in its network namespace.
		cmd := exec.Command("nsenter", append([]string{"--net=" + in.layout.NetNS(guest), "--"}, args...)...)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
			if t.Failed() {
				data, _ := os.ReadFile(log.Name())
				t.Logf("%s: …%s", filepath.Base(log.Name()), data[max(0, len(data)-1500):])
			}
			log.Close()
		})
	}
	run("etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380")
	run("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address="+apiAddress.String(), "--advertise-address="+apiAddress.String(), "--secure-port=443",
		"--tls-cert-file="+cert, "--tls-private-key-file="+key, "--client-ca-file="+ca, "--token-auth-file="+tokens, "--authorization-mode=AlwaysAllow", "--service-cluster-ip-range=10.0.0.0/16",
		"--service-account-issuer=https://test", "--service-account-key-file="+key, "--service-account-signing-key-file="+key, "--allow-privileged")

	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: "https://" + netip.AddrPortFrom(apiAddress, 443).String(), BearerToken: adminToken,
		TLSClientConfig: rest.TLSClientConfig{ServerName: apiName, CAData: []byte(s.authority.pem)},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return netns.Dial(ctx, in.layout.NetNS(guest), network, address)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	wait := func(ready func() error) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for err := ready(); err != nil; err = ready() {
			if time.Now().After(deadline) {
				t.Fatalf("the control plane is not ready: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	wait(func() error {
		_, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	run("kube-controller-manager", "--kubeconfig="+kubeconfig, "--cluster-signing-cert-file="+ca, "--cluster-signing-key-file="+caKey, "--service-account-private-key-file="+key, "--root-ca-file="+ca, "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=20257")
	wait(func() error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return client
}

// await watches until ok says so of the object called name.
func await[T any](t *testing.T, what, name string, start func(context.Context, metav1.ListOptions) (watch.Interface, error), ok func(T) bool) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	w, err := start(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var last any
	for event := range w.ResultChan() {
		if object, is := event.Object.(T); is {
			last = object
			if ok(object) {
				return object
			}
		}
	}
	t.Fatalf("%s: not within the time; last seen: %+v", what, last)
	return *new(T)
}

func TestKubelet(t *testing.T) {
	in := install(t)
	s := surroundWithoutAPI(t, in, "node-k1")
	before := hostSettings(t)
	c := config(in, s, "k1")
	c.CPUs = 4
	client := controlPlane(t, in, s, "node-k1", c.Bootstrap.BootstrapToken)

	start := time.Now()
	if err := in.engine.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.engine.Remove(context.WithoutCancel(t.Context()), "k1"); err != nil {
			t.Error(err)
		}
	})
	if result := in.provisioned(t, "k1"); result.ExitCode != bootstrap.Success {
		t.Fatalf("exit code %d: %s\n%s", result.ExitCode, result.Error, result.Output)
	}
	t.Logf("provisioned after %s", time.Since(start).Round(time.Millisecond))
	n := await(t, "node Ready", c.Name, client.CoreV1().Nodes().Watch, func(n *corev1.Node) bool {
		return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	})
	t.Logf("Ready after %s", time.Since(start).Round(time.Millisecond))
	if cpu, memory := n.Status.Capacity.Cpu().Value(), n.Status.Capacity.Memory().Value(); cpu != 4 || memory != 4<<30 {
		t.Errorf("the node reports %d CPUs and %d bytes, not its VM size's", cpu, memory)
	}
	if n.Labels["agentpool"] != "nodepool1" || n.Spec.ProviderID != c.Bootstrap.Kubelet.ProviderID {
		t.Errorf("labels %v, provider ID %q", n.Labels, n.Spec.ProviderID)
	}

	privileged := true
	pod := func(name, script string, change func(*corev1.PodSpec)) string {
		t.Helper()
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{
				NodeName: c.Name, RestartPolicy: corev1.RestartPolicyNever,
				Containers: []corev1.Container{{Name: "c", Image: "mcr.microsoft.com/cbl-mariner/busybox:2.0", Command: []string{"sh", "-c", script}}},
			},
		}
		if change != nil {
			change(&p.Spec)
		}
		if _, err := client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		done := await(t, "pod "+name, name, client.CoreV1().Pods("default").Watch, func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		})
		out := in.mustExec(t, "k1", "sh", "-c", "cat /var/log/pods/default_"+name+"_*/c/0.log")
		if done.Status.Phase != corev1.PodSucceeded {
			t.Fatalf("pod %s: %s: %+v", name, out, done.Status)
		}
		return out
	}
	out := pod("ordinary", "ip addr show eth0; cat /proc/self/uid_map; cat /proc/meminfo | head -1", nil)
	t.Logf("%s", out)
	if !strings.Contains(out, "10.224.0.") {
		t.Errorf("the pod has no address of the subnet: %s", out)
	}
	// That its image came through the registry is what an isolated cluster is about.
	s.mu.Lock()
	if !slices.ContainsFunc(s.pulled, func(path string) bool {
		return strings.HasPrefix(path, "/v2/aks-managed-repository/cbl-mariner/busybox/manifests/")
	}) {
		t.Errorf("the pod's image did not come through the mirror; asked for: %q", s.pulled)
	}
	s.mu.Unlock()

	out = pod("privileged", `cat /proc/self/uid_map
for w in kernel/panic kernel/core_pattern vm/overcommit_memory; do cat /proc/sys/$w > /proc/sys/$w && echo "WROTE $w"; done
mknod /tmp/mem c 1 1 && echo MADE
mkdir /tmp/p && mount -t proc proc /tmp/p && echo mounted proc`, func(s *corev1.PodSpec) {
		s.HostPID, s.HostNetwork = true, true
		s.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: &privileged}
	})
	t.Logf("%s", out)
	if !strings.Contains(out, fmt.Sprint(base)) || strings.Contains(out, "WROTE") || strings.Contains(out, "MADE") {
		t.Errorf("a privileged pod reaches the host: %s", out)
	}
	if !strings.Contains(out, "mounted proc") {
		t.Errorf("a privileged pod cannot mount proc: %s", out)
	}
	if after := hostSettings(t); after != before {
		t.Errorf("the node changed the host:\nbefore %s\nafter %s", before, after)
	}
}
