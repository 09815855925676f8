package controlplane

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cloister-dev/cloister/internal/lib/containerrun"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func containerID(id, component string) string { return "cp-" + id + "-" + component }

// specs are the containers of these components. Each tries again until what it needs is there, so that
// the restart monitor may start them in any order.
func (e *Engine) specs(c Config, components ...string) ([]containerrun.Spec, error) {
	var out []containerrun.Spec
	for _, component := range components {
		hash, err := e.fixedHash(c.ID, component)
		if err != nil {
			return nil, err
		}
		binary := filepath.Join(e.kubernetes, c.KubernetesVersion, component)
		if component == etcd {
			binary = filepath.Join(e.bin, component)
		}
		if _, err := os.Stat(binary); err != nil {
			return nil, fmt.Errorf("a binary is missing, run `cloister artifacts build`: %w", err)
		}
		id := containerID(c.ID, component)
		s := containerrun.Spec{
			ID:              id,
			Hostname:        component,
			ReadonlyRootfs:  true,
			NoNewPrivileges: true, // and root without a capability: it owns its files, and that is all
			NetNS:           c.NetNS,
			Log:             e.l.Log(id),
			Restart:         true,
			Resources:       &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(cpuShares))}},
			Labels:          map[string]string{"dev.cloister/cluster": c.ID, "dev.cloister/component": component, "dev.cloister/files": hash},
			Mounts: []specs.Mount{
				bind(binary, "/usr/local/bin/"+component, "ro", "nosuid", "nodev"),
				bind(e.path(c.ID, component), "/etc/kubernetes", "ro", "nosuid", "nodev", "noexec"),
			},
		}
		switch component {
		case etcd:
			s.Args = e.etcdArgs()
			s.Mounts = append(s.Mounts, bind(e.path(c.ID, "data"), "/var/lib/etcd", "rw", "nosuid", "nodev", "noexec"))
		case apiserver:
			s.Args = e.apiserverArgs(c)
			s.Capabilities = []string{"CAP_NET_BIND_SERVICE"}
			s.Mounts = append(s.Mounts,
				bind(e.path(c.ID, "audit"), "/var/log/kubernetes", "rw", "nosuid", "nodev", "noexec"),
				bind(e.l.Tunnel(c.ID), "/run/tunnel", "ro", "nosuid", "nodev", "noexec"))
		case controllerManager:
			s.Args = e.controllerManagerArgs()
		case scheduler:
			s.Args = e.schedulerArgs()
		}
		s.Args[0] = "/usr/local/bin/" + component
		s.Env = []string{"PATH=/usr/local/bin"}
		out = append(out, s)
	}
	return out, nil
}

// cpuShares is the weight of a component where processors are short; a node's container, with all that runs in it,
// has the kernel's default, 1024. On Azure a control plane shares no processor with nodes.
const cpuShares = 8192

func ptr[T any](v T) *T { return &v }

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Source: source, Destination: destination, Type: "bind", Options: append([]string{"rbind"}, options...)}
}

// etcdArgs listens on the namespace's loopback only, with both sides' certificates checked.
func (e *Engine) etcdArgs() []string {
	return []string{etcd,
		"--name=default",
		"--data-dir=/var/lib/etcd",
		"--listen-client-urls=https://127.0.0.1:2379",
		"--advertise-client-urls=https://127.0.0.1:2379",
		"--listen-peer-urls=https://127.0.0.1:2380",
		"--initial-advertise-peer-urls=https://127.0.0.1:2380",
		"--initial-cluster=default=https://127.0.0.1:2380",
		"--cert-file=/etc/kubernetes/server.crt",
		"--key-file=/etc/kubernetes/server.key",
		"--trusted-ca-file=/etc/kubernetes/ca.crt",
		"--client-cert-auth",
		"--peer-cert-file=/etc/kubernetes/server.crt",
		"--peer-key-file=/etc/kubernetes/server.key",
		"--peer-trusted-ca-file=/etc/kubernetes/ca.crt",
		"--peer-client-cert-auth",
		"--snapshot-count=10000",
		"--quota-backend-bytes=2147483648",
		"--log-level=warn",
	}
}

func (e *Engine) apiserverArgs(c Config) []string {
	issuer := c.FQDN
	if issuer == "" {
		issuer = c.PrivateFQDN
	}
	return []string{apiserver,
		"--bind-address=0.0.0.0",
		"--secure-port=443",
		"--advertise-address=" + c.EndpointAddress.String(),
		"--tls-cert-file=/etc/kubernetes/server.crt",
		"--tls-private-key-file=/etc/kubernetes/server.key",
		"--tls-min-version=VersionTLS12",

		"--etcd-servers=https://127.0.0.1:2379",
		"--etcd-cafile=/etc/kubernetes/etcd-ca.crt",
		"--etcd-certfile=/etc/kubernetes/etcd-client.crt",
		"--etcd-keyfile=/etc/kubernetes/etcd-client.key",
		"--encryption-provider-config=/etc/kubernetes/encryption.yaml",

		"--client-ca-file=/etc/kubernetes/ca.crt",
		"--anonymous-auth=false",
		"--enable-bootstrap-token-auth",
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged",
		"--service-cluster-ip-range=" + c.ServiceCIDR.String(),
		"--service-account-issuer=https://" + issuer,
		"--service-account-signing-key-file=/etc/kubernetes/sa.key",
		"--service-account-key-file=/etc/kubernetes/sa.pub",

		"--kubelet-client-certificate=/etc/kubernetes/kubelet-client.crt",
		"--kubelet-client-key=/etc/kubernetes/kubelet-client.key",
		"--kubelet-certificate-authority=/etc/kubernetes/ca.crt",
		"--kubelet-preferred-address-types=InternalIP",
		"--egress-selector-config-file=/etc/kubernetes/egress.yaml",

		"--requestheader-client-ca-file=/etc/kubernetes/front-proxy-ca.crt",
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=/etc/kubernetes/front-proxy-client.crt",
		"--proxy-client-key-file=/etc/kubernetes/front-proxy-client.key",
		"--enable-aggregator-routing",

		"--audit-policy-file=/etc/kubernetes/audit-policy.yaml",
		"--audit-log-path=/var/log/kubernetes/audit.log",
		"--audit-log-maxage=30",
		"--audit-log-maxbackup=3",
		"--audit-log-maxsize=50",

		// A cluster of a few nodes on one machine: what the defaults keep for thousands is left out.
		"--max-requests-inflight=200",
		"--max-mutating-requests-inflight=100",
		"--etcd-count-metric-poll-period=0",
		"--profiling=false",
		"--v=0",
	}
}

func (e *Engine) controllerManagerArgs() []string {
	args := []string{controllerManager,
		"--kubeconfig=/etc/kubernetes/client.conf",
		"--authentication-kubeconfig=/etc/kubernetes/client.conf",
		"--authorization-kubeconfig=/etc/kubernetes/client.conf",
		// Nobody in the namespace asks for its metrics, and it may start before the API server.
		"--authentication-skip-lookup",
		"--bind-address=127.0.0.1",
		"--tls-cert-file=/etc/kubernetes/server.crt",
		"--tls-private-key-file=/etc/kubernetes/server.key",
		"--leader-elect=false",
		"--use-service-account-credentials",
		"--service-account-private-key-file=/etc/kubernetes/sa.key",
		"--root-ca-file=/etc/kubernetes/ca.crt",
		"--cluster-signing-cert-file=/etc/kubernetes/ca.crt",
		"--cluster-signing-key-file=/etc/kubernetes/ca.key",
		"--cluster-signing-duration=8760h",
		"--allocate-node-cidrs=false",
		"--configure-cloud-routes=false",
		"--controllers=*,tokencleaner",
		"--kube-api-qps=50",
		"--kube-api-burst=100",
		"--profiling=false",
		"--v=0",
	}
	for _, what := range strings.Fields("deployment endpoint service-endpoint gc namespace replicaset resource-quota serviceaccount-token statefulset") {
		args = append(args, "--concurrent-"+what+"-syncs=2")
	}
	return args
}

func (e *Engine) schedulerArgs() []string {
	return []string{scheduler,
		"--kubeconfig=/etc/kubernetes/client.conf",
		"--authentication-kubeconfig=/etc/kubernetes/client.conf",
		"--authorization-kubeconfig=/etc/kubernetes/client.conf",
		"--authentication-skip-lookup",
		"--bind-address=127.0.0.1",
		"--tls-cert-file=/etc/kubernetes/server.crt",
		"--tls-private-key-file=/etc/kubernetes/server.key",
		"--leader-elect=false",
		"--profiling=false",
		"--v=0",
	}
}
