package bootstrap

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	kubeletConfigPath   = "/etc/default/kubeletconfig.json"
	kubeletDefaults     = "/etc/default/kubelet"
	providerConfigPath  = "/var/lib/kubelet/credential-provider-config.yaml"
	providerBinDir      = "/var/lib/kubelet/credential-provider"
	bootstrapKubeconfig = "/var/lib/kubelet/bootstrap-kubeconfig"
	azureJSONPath       = "/etc/kubernetes/azure.json"
	clusterCAPath       = "/etc/kubernetes/certs/ca.crt"
)

// startKubelet is AKS's ensureKubelet, from the files on.
func (r *runner) startKubelet(ctx context.Context) error {
	if err := r.writeKubeletFiles(); err != nil {
		return fail(KubeletStart, "configure the kubelet: %w", err)
	}
	r.protectWireServer(ctx)
	if err := r.env.Services.Start(ctx, KubeletService); err != nil {
		return fail(KubeletStart, "start kubelet: %w", err)
	}
	return nil
}

// protectWireServer keeps pods from the machine's wire server. AKS's kubelet.sh goes on without, too.
func (r *runner) protectWireServer(ctx context.Context) {
	if err := r.env.Firewall(ctx); err != nil {
		r.logf("pods are not kept from the wire server: %v", err)
	}
}

func (r *runner) writeKubeletFiles() error {
	c := r.config
	config, err := c.kubeletConfig()
	if err != nil {
		return err
	}
	flags, err := c.kubeletFlags()
	if err != nil {
		return err
	}
	provider, err := c.credentialProviderConfig()
	if err != nil {
		return err
	}
	azure, err := c.azureJSON()
	if err != nil {
		return err
	}
	if err := r.writeFiles(map[string]string{
		kubeletConfigPath:  config,
		kubeletDefaults:    "KUBELET_FLAGS=\"" + strings.Join(flags, " ") + "\"\n",
		providerConfigPath: provider,
		clusterCAPath:      c.ClusterCA,
	}, 0o644); err != nil {
		return err
	}
	return r.writeFiles(map[string]string{azureJSONPath: azure, bootstrapKubeconfig: c.bootstrapKubeconfig()}, 0o600)
}

var (
	plainWord = regexp.MustCompile(`^[A-Za-z0-9._/-]*$`)
	taintForm = regexp.MustCompile(`^([^=:]+)(?:=([^:]*))?:(NoSchedule|PreferNoSchedule|NoExecute)$`)
)

func (c Config) kubeletFlags() ([]string, error) {
	var labels []string
	for _, key := range slices.Sorted(maps.Keys(c.Kubelet.Labels)) {
		value := c.Kubelet.Labels[key]
		// The file is read by a shell.
		if !plainWord.MatchString(key) || !plainWord.MatchString(value) {
			return nil, fmt.Errorf("node label %q=%q is not valid", key, value)
		}
		labels = append(labels, key+"="+value)
	}
	flags := []string{
		"--config=" + kubeletConfigPath,
		"--bootstrap-kubeconfig=" + bootstrapKubeconfig,
		"--kubeconfig=/var/lib/kubelet/kubeconfig",
		"--hostname-override=" + c.NodeName,
		"--node-ip=" + c.NodeAddress.String(),
		"--image-credential-provider-config=" + providerConfigPath,
		"--image-credential-provider-bin-dir=" + providerBinDir,
		"--pod-infra-container-image=" + c.SandboxImage,
		"--v=2",
	}
	if len(labels) > 0 {
		flags = append(flags, "--node-labels="+strings.Join(labels, ","))
	}
	return flags, nil
}

// kubeletConfig follows AKS's defaults for 1.30. Set apart from AKS, and why:
//   - KubeletInUserNamespace, cgroupfs, cgroupRoot /, failSwapOn and protectKernelDefaults off: the node is a
//     container in a user namespace on a machine that has its own settings.
//   - Eviction and image collection by free bytes rather than shares of the file system: the disk is the host's, and
//     how full the host's disk is says nothing of a node's 128 GB.
func (c Config) kubeletConfig() (string, error) {
	taints := []map[string]string{}
	for _, t := range c.Kubelet.Taints {
		m := taintForm.FindStringSubmatch(t)
		if m == nil {
			return "", fmt.Errorf("node taint %q is not key=value:effect", t)
		}
		taints = append(taints, map[string]string{"key": m[1], "value": m[2], "effect": m[3]})
	}
	config := map[string]any{
		"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1",
		"containerRuntimeEndpoint": "unix://" + containerdSocket,
		"staticPodPath":            "/etc/kubernetes/manifests",
		"address":                  "0.0.0.0",
		"readOnlyPort":             0,
		"authentication": map[string]any{
			"x509": map[string]any{"clientCAFile": clusterCAPath}, "webhook": map[string]any{"enabled": true}, "anonymous": map[string]any{"enabled": false},
		},
		"authorization":                  map[string]any{"mode": "Webhook"},
		"serverTLSBootstrap":             true,
		"rotateCertificates":             true,
		"tlsCipherSuites":                []string{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
		"clusterDomain":                  "cluster.local",
		"clusterDNS":                     []string{c.Kubelet.ClusterDNS.String()},
		"resolvConf":                     "/etc/resolv.conf",
		"featureGates":                   map[string]bool{"KubeletInUserNamespace": true, "RotateKubeletServerCertificate": true},
		"cgroupDriver":                   "cgroupfs",
		"cgroupRoot":                     "/",
		"cgroupsPerQOS":                  true,
		"enforceNodeAllocatable":         []string{"pods"},
		"kubeReserved":                   c.kubeReserved(),
		"evictionHard":                   map[string]string{"memory.available": "100Mi", "nodefs.available": "2Gi", "nodefs.inodesFree": "1%", "imagefs.available": "2Gi", "pid.available": "2000"},
		"imageGCHighThresholdPercent":    100,
		"imageGCLowThresholdPercent":     80,
		"maxPods":                        c.Kubelet.MaxPods,
		"podPidsLimit":                   -1,
		"failSwapOn":                     false,
		"protectKernelDefaults":          false,
		"streamingConnectionIdleTimeout": "4h0m0s",
		"nodeStatusUpdateFrequency":      "10s",
		"registryPullQPS":                5,
		"registryBurst":                  10,
		"eventRecordQPS":                 0,
		"serializeImagePulls":            false,
		"containerLogMaxSize":            "50M",
		"registerWithTaints":             taints,
		"providerID":                     c.Kubelet.ProviderID,
	}
	data, err := json.MarshalIndent(config, "", "  ")
	return string(data) + "\n", err
}

// kubeReserved is AKS's rule since 1.29: 20 MiB for each pod and 50 MiB.
func (c Config) kubeReserved() map[string]string {
	return map[string]string{"cpu": "100m", "memory": fmt.Sprintf("%dMi", 20*c.Kubelet.MaxPods+50), "pid": "1000"}
}

// credentialProviderConfig lets the kubelet ask for MCR's credentials, too: they ride along to the mirror.
func (c Config) credentialProviderConfig() (string, error) {
	images := []string{"*.azurecr.io", "*.azurecr.cn", "*.azurecr.de", "*.azurecr.us", "*.*.geo.azurecr.io", "*.*.geo.azurecr.cn", "*.*.geo.azurecr.de", "*.*.geo.azurecr.us"}
	args := []string{azureJSONPath}
	if c.RegistryServer != "" {
		images = append(images, c.MCR)
		args = append(args, "--registry-mirror="+c.MCR+":"+c.RegistryServer)
	}
	data, err := yaml.Marshal(map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
		"providers": []any{map[string]any{
			"name": "acr-credential-provider", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
			"defaultCacheDuration": "10m", "matchImages": images, "args": args,
		}},
	})
	return string(data), err
}

// azureJSON is the cloud provider's configuration, which the credential provider reads.
func (c Config) azureJSON() (string, error) {
	data, err := json.MarshalIndent(map[string]any{
		"cloud": "AzurePublicCloud", "tenantId": c.Identity.TenantID, "subscriptionId": c.Azure.SubscriptionID,
		"aadClientId": "msi", "aadClientSecret": "msi", "resourceGroup": c.Azure.ResourceGroup, "location": c.Azure.Location,
		"vmType": "vmss", "subnetName": c.Azure.SubnetName, "securityGroupName": c.Azure.SecurityGroupName, "vnetName": c.Azure.VNetName,
		"vnetResourceGroup": c.Azure.VNetResourceGroup, "routeTableName": c.Azure.RouteTableName, "primaryAvailabilitySetName": "",
		"primaryScaleSetName": c.Azure.ScaleSetName, "useManagedIdentityExtension": true, "userAssignedIdentityID": c.Identity.ClientID,
		"useInstanceMetadata": true, "loadBalancerSku": "Standard", "disableOutboundSNAT": false, "excludeMasterFromStandardLB": true,
		"maximumLoadBalancerRuleCount": 250,
	}, "", "  ")
	return string(data) + "\n", err
}

// bootstrapKubeconfig is what the kubelet asks for its first certificate with.
func (c Config) bootstrapKubeconfig() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: localcluster
  cluster:
    certificate-authority-data: %s
    server: https://%s:443
users:
- name: kubelet-bootstrap
  user:
    token: %q
contexts:
- name: bootstrap-context
  context:
    cluster: localcluster
    user: kubelet-bootstrap
current-context: bootstrap-context
`, base64.StdEncoding.EncodeToString([]byte(c.ClusterCA)), c.APIServerName, c.BootstrapToken)
}

// kubeletMaySet lists the labels below kubernetes.io and k8s.io that the NodeRestriction admission plugin lets a
// kubelet set on its own node (k8s.io/kubelet/pkg/apis, well_known_labels.go).
var kubeletMaySet = []string{
	"kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "topology.kubernetes.io/zone", "topology.kubernetes.io/region",
	"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
	"node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

// SplitLabels tells which of a node's labels its kubelet may set, and which must be set with more rights.
func SplitLabels(labels map[string]string) (kubelet, controlPlane map[string]string) {
	kubelet, controlPlane = map[string]string{}, map[string]string{}
	for key, value := range labels {
		domain, _, found := strings.Cut(key, "/")
		reserved := found && (domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || domain == "k8s.io" || strings.HasSuffix(domain, ".k8s.io"))
		permitted := slices.Contains(kubeletMaySet, key) || strings.HasSuffix("."+domain, ".kubelet.kubernetes.io") || strings.HasSuffix("."+domain, ".node.kubernetes.io")
		if reserved && !permitted {
			controlPlane[key] = value
		} else {
			kubelet[key] = value
		}
	}
	return kubelet, controlPlane
}
