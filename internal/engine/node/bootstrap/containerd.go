package bootstrap

import (
	"context"
	"fmt"
	"strings"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	certsDir         = "/etc/containerd/certs.d"
)

// containerdConfig is containerd's configuration. What differs from AKS's is due to the user namespace:
// oom scores cannot be lowered in one, so those of containers are restricted to containerd's own.
func (c Config) containerdConfig() string {
	return fmt.Sprintf(`version = 3

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %[1]q
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = %[2]q

[plugins.'io.containerd.transfer.v1.local']
  config_path = %[2]q

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"

[metrics]
  address = "0.0.0.0:10257"
`, c.SandboxImage, certsDir)
}

// hostsTOML makes containerd ask the bootstrap registry for MCR's images. Like AKS's it has no server line, so
// containerd falls back to MCR itself when the registry fails.
func (c Config) hostsTOML() string {
	host, prefix, _ := strings.Cut(c.RegistryServer, "/")
	url := "https://" + host + "/v2"
	if prefix != "" {
		url += "/" + prefix
	}
	return fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n", url)
}

// cniConfig gives pods addresses of the subnet, routed through the node's own: what Azure CNI does on AKS. The
// default gateway of host-local, the subnet's first address, is the router's and must not be put on the node.
func (c Config) cniConfig() string {
	var ranges []string // of one set: an address is of any of them
	for _, r := range c.Pods.Ranges {
		ranges = append(ranges, fmt.Sprintf(`{"subnet": %q, "rangeStart": %q, "rangeEnd": %q, "gateway": %q}`, c.Pods.Subnet, r.First, r.Last, c.NodeAddress))
	}
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "azure",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "ranges": [[%s]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {
      "type": "portmap",
      "capabilities": {"portMappings": true},
      "snat": true
    }
  ]
}
`, strings.Join(ranges, ", "))
}

// startContainerd configures and starts containerd. On AKS this comes after the kubelet's download; nothing
// of it depends on what was downloaded.
func (r *runner) startContainerd(ctx context.Context) error {
	files := map[string]string{
		"/etc/containerd/config.toml":      r.config.containerdConfig(),
		"/etc/cni/net.d/10-azure.conflist": r.config.cniConfig(),
	}
	hosts := certsDir + "/" + r.config.MCR + "/hosts.toml"
	if r.config.RegistryServer != "" {
		files[hosts] = r.config.hostsTOML()
	} else if err := remove(r.path(hosts)); err != nil {
		return fail(ContainerdInstall, "%w", err)
	}
	if err := r.writeFiles(files, 0o644); err != nil {
		return fail(ContainerdInstall, "configure containerd: %w", err)
	}
	if err := r.env.Services.Start(ctx, ContainerdService); err != nil {
		return fail(ContainerdInstall, "start containerd: %w", err)
	}
	if err := r.env.Runtime.Ready(ctx); err != nil {
		return fail(ContainerdInstall, "containerd does not answer: %w", err)
	}
	return nil
}
