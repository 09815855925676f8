package bootstrap

import (
	"errors"
	"fmt"
)

// ExitCode is one of AKS's node provisioning exit codes (AgentBaker, cse_helpers.sh).
type ExitCode int

// Exit codes, with the numbers of AKS.
const (
	Success                    ExitCode = 0
	ContainerdInstall          ExitCode = 28
	KubernetesDownload         ExitCode = 31
	ImageDownload              ExitCode = 33
	KubeletStart               ExitCode = 34
	OutboundConnection         ExitCode = 50
	APIServerConnection        ExitCode = 51
	APIServerDNSLookup         ExitCode = 52
	APIServerAzureDNSLookup    ExitCode = 53
	Timeout                    ExitCode = 124
	KubernetesInstall          ExitCode = 204
	CredentialProviderDownload ExitCode = 205
	OrasPullKubernetes         ExitCode = 207
	OrasPullCredentialProvider ExitCode = 208
	OrasIMDSTimeout            ExitCode = 210
	OrasPullNetworkTimeout     ExitCode = 211
	OrasPullUnauthorized       ExitCode = 212
	PullPodInfraContainerImage ExitCode = 233
	IMDSFetch                  ExitCode = 234
	AKSNodeControllerError     ExitCode = 240
)

// Description is what AKS says about an exit code.
type Description struct {
	Name   string // ERR_… of cse_helpers.sh
	Detail string // the VMExtensionError_… suffix in ARM's newer error texts; empty where no source names it
	Hint   string
}

// Describe returns AKS's name and hint for code.
func Describe(code ExitCode) Description {
	switch code {
	case Success:
		return Description{}
	case ContainerdInstall:
		return Description{"ERR_CONTAINERD_INSTALL_TIMEOUT", "", "containerd could not be configured or started on the node."}
	case KubernetesDownload:
		return Description{"ERR_K8S_DOWNLOAD_TIMEOUT", "K8SDownloadTimeout", "Timeout downloading Kubernetes binaries. Please check that agents can reach the package source."}
	case ImageDownload:
		return Description{"ERR_IMG_DOWNLOAD_TIMEOUT", "ImageDownloadTimeout", "Timeout downloading images. Please check that agents can reach mcr.microsoft.com and its data endpoints."}
	case KubeletStart:
		return Description{"ERR_KUBELET_START_FAIL", "KubeletStartFail", "Kubelet could not be started on the node."}
	case OutboundConnection:
		return Description{"ERR_OUTBOUND_CONN_FAIL", "OutboundConnFail", "Unable to establish outbound connection from agents. Please check the egress path of the subnet: https://aka.ms/aks/required-ports-and-addresses"}
	case APIServerConnection:
		return Description{"ERR_K8S_API_SERVER_CONN_FAIL", "K8SAPIServerConnFail", "Agents are unable to establish connection to the Kubernetes API server. Please check network security groups, routes and the API server's private endpoint."}
	case APIServerDNSLookup:
		return Description{"ERR_K8S_API_SERVER_DNS_LOOKUP_FAIL", "K8SAPIServerDNSLookupFail", "Agents are unable to resolve Kubernetes API server name. It's likely custom DNS server is not correctly configured, please see https://aka.ms/aks/private-cluster#hub-and-spoke-with-custom-dns for more information."}
	case APIServerAzureDNSLookup:
		return Description{"ERR_K8S_API_SERVER_AZURE_DNS_LOOKUP_FAIL", "K8SAPIServerAzureDNSLookupFail", "Agents are unable to resolve Kubernetes API server name through Azure DNS. Please check that the private DNS zone is linked to the node's virtual network and holds the API server's record."}
	case Timeout:
		return Description{"timeout", "", "Provisioning did not end within the time that Azure gives it."}
	case KubernetesInstall:
		return Description{"ERR_K8S_INSTALL_ERR", "", "The Kubernetes binaries were downloaded but could not be installed."}
	case CredentialProviderDownload:
		return Description{"ERR_CREDENTIAL_PROVIDER_DOWNLOAD_TIMEOUT", "", "Timeout downloading the kubelet credential provider."}
	case OrasPullKubernetes:
		return Description{"ERR_ORAS_PULL_K8S_FAIL", "OrasPullK8sFail", "Kubernetes binaries could not be pulled from the bootstrap container registry. Please check its cache rule for mcr.microsoft.com and the record of its data endpoint."}
	case OrasPullCredentialProvider:
		return Description{"ERR_ORAS_PULL_CREDENTIAL_PROVIDER", "OrasPullCredentialProvider", "The kubelet credential provider could not be pulled from the bootstrap container registry. Please check its cache rule for mcr.microsoft.com and the record of its data endpoint."}
	case OrasIMDSTimeout:
		return Description{"ERR_ORAS_IMDS_TIMEOUT", "OrasIMDSTimeout", "The instance metadata service did not answer the request for the kubelet identity's token."}
	case OrasPullNetworkTimeout:
		return Description{"ERR_ORAS_PULL_NETWORK_TIMEOUT", "OrasPullNetworkTimeoutVMExtensionError", "Bootstrap Container Registry is not reachable. Please check the network configuration and try again."}
	case OrasPullUnauthorized:
		return Description{"ERR_ORAS_PULL_UNAUTHORIZED", "OrasPullUnauthorizedVMExtensionError", "Bootstrap Container Registry authorization failed. Please ensure kubelet identity has pull access to the registry."}
	case PullPodInfraContainerImage:
		return Description{"ERR_PULL_POD_INFRA_CONTAINER_IMAGE", "PullPodInfraContainerImage", "The pod infrastructure (pause) image could not be pulled. Please check the registry's cache rule for mcr.microsoft.com and the record of its data endpoint."}
	case IMDSFetch:
		return Description{"ERR_IMDS_FETCH_FAILED", "IMDSFetchFailed", "The instance metadata could not be read from 169.254.169.254."}
	case AKSNodeControllerError:
		return Description{"ERR_AKS_NODE_CONTROLLER_ERROR", "", "The provisioning program itself failed."}
	}
	return Description{Name: fmt.Sprintf("exit status %d", int(code))}
}

// failure is an error that ends provisioning with a code.
type failure struct {
	code ExitCode
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(code ExitCode, format string, args ...any) error {
	return &failure{code, fmt.Errorf(format, args...)}
}

// codeOf is the exit code err stands for.
func codeOf(err error) ExitCode {
	if err == nil {
		return Success
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code
	}
	return AKSNodeControllerError
}
