package azcli

import "strings"

// notSupported are the arguments that az 2.74 has and these commands lack, by command: whoever gives one is told
// so rather than that there is no such argument.
var notSupported = map[string][]string{
	"aks create": strings.Fields(`aad-admin-group-object-ids aad-tenant-id aci-subnet-name acns-advanced-networkpolicies ampls-resource-id app-routing-default-nginx-controller appgw-id appgw-name
		appgw-subnet-cidr appgw-subnet-id appgw-watch-namespace auto-upgrade-channel azure-keyvault-kms-key-id azure-keyvault-kms-key-vault-network-access azure-keyvault-kms-key-vault-resource-id
		azure-monitor-workspace-resource-id ca-certs ca-profile cluster-autoscaler-profile crg-id custom-ca-trust-certificates data-collection-settings defender-config disable-acns-observability
		disable-acns-security disable-disk-driver disable-file-driver disable-rbac disable-snapshot-controller edge-zone enable-aad enable-acns enable-addons enable-ahub enable-ai-toolchain-operator
		enable-app-routing enable-asm enable-azure-container-storage enable-azure-keyvault-kms enable-azure-monitor-metrics enable-azure-rbac enable-azure-service-mesh enable-blob-driver enable-cluster-autoscaler
		enable-cost-analysis enable-defender enable-encryption-at-host enable-fips-image enable-high-log-scale-mode enable-image-cleaner enable-keda enable-msi-auth-for-monitoring enable-node-public-ip
		enable-oidc-issuer enable-secret-rotation enable-secure-boot enable-sgxquotehelper enable-static-egress-gateway enable-syslog enable-ultra-ssd enable-vpa enable-vtpm enable-windows-gmsa
		enable-windows-recording-rules enable-workload-identity ephemeral-disk-nvme-perf-tier ephemeral-disk-volume-type gmsa-dns-server gmsa-root-domain-name gpu-instance-profile
		grafana-resource-id host-group-id http-proxy-config if-match if-none-match image-cleaner-interval-hours ip-families k8s-support-plan ksm-metric-annotations-allow-list ksm-metric-labels-allow-list
		kubelet-config linux-os-config load-balancer-backend-pool-type load-balancer-managed-outbound-ipv6-count load-balancer-outbound-ip-prefixes max-count message-of-the-day min-count network-dataplane
		node-osdisk-diskencryptionset-id node-osdisk-type node-provisioning-mode node-public-ip-prefix-id node-public-ip-tags nodepool-allowed-host-ports nodepool-asg-ids
		nrg-lockdown-restriction-level pod-cidrs pod-ip-allocation-mode pod-subnet-id ppg revision rotation-poll-interval service-cidrs sku snapshot-id storage-pool-name storage-pool-option
		storage-pool-size storage-pool-sku vm-sizes windows-admin-password windows-admin-username workload-runtime workspace-resource-id zones`),
	"aks update": strings.Fields(`aad-admin-group-object-ids aad-tenant-id acns-advanced-networkpolicies auto-upgrade-channel azure-container-storage-nodepools azure-keyvault-kms-key-id
		azure-keyvault-kms-key-vault-network-access azure-keyvault-kms-key-vault-resource-id azure-monitor-workspace-resource-id ca-certs ca-profile cluster-autoscaler-profile custom-ca-trust-certificates
		defender-config disable-acns disable-acns-observability disable-acns-security disable-ahub disable-ai-toolchain-operator disable-azure-container-storage disable-azure-keyvault-kms
		disable-azure-monitor-metrics disable-azure-rbac disable-blob-driver disable-cluster-autoscaler disable-cost-analysis disable-defender disable-disk-driver disable-file-driver disable-force-upgrade
		disable-image-cleaner disable-keda disable-secret-rotation disable-snapshot-controller disable-static-egress-gateway disable-vpa disable-windows-gmsa disable-workload-identity enable-aad enable-acns
		enable-ahub enable-ai-toolchain-operator enable-azure-container-storage enable-azure-keyvault-kms enable-azure-monitor-metrics enable-azure-rbac enable-blob-driver enable-cluster-autoscaler
		enable-cost-analysis enable-defender enable-disk-driver enable-file-driver enable-force-upgrade enable-image-cleaner enable-keda enable-oidc-issuer enable-secret-rotation enable-snapshot-controller
		enable-static-egress-gateway enable-vpa enable-windows-gmsa enable-windows-recording-rules enable-workload-identity gmsa-dns-server gmsa-root-domain-name grafana-resource-id http-proxy-config if-match
		if-none-match image-cleaner-interval-hours ip-families k8s-support-plan ksm-metric-annotations-allow-list ksm-metric-labels-allow-list load-balancer-backend-pool-type
		load-balancer-managed-outbound-ipv6-count load-balancer-outbound-ip-prefixes max-count migrate-vmas-to-vms min-count network-dataplane network-plugin network-plugin-mode network-policy
		node-provisioning-mode nrg-lockdown-restriction-level pod-cidr rotation-poll-interval sku update-cluster-autoscaler upgrade-override-until windows-admin-password`),
	"aks upgrade":         strings.Fields("disable-force-upgrade enable-force-upgrade if-match if-none-match k8s-support-plan tier upgrade-override-until"),
	"aks get-credentials": {"format"},
	"aks nodepool add": strings.Fields(`allowed-host-ports asg-ids crg-id disable-windows-outbound-nat enable-cluster-autoscaler enable-encryption-at-host enable-fips-image enable-node-public-ip
		enable-secure-boot enable-ultra-ssd enable-vtpm eviction-policy gateway-prefix-size gpu-driver gpu-instance-profile host-group-id if-match if-none-match kubelet-config linux-os-config max-count
		message-of-the-day min-count node-osdisk-type node-public-ip-prefix-id node-public-ip-tags pod-ip-allocation-mode pod-subnet-id ppg priority scale-down-mode snapshot-id spot-max-price
		undrainable-node-behavior vm-set-type vm-sizes workload-runtime zones`),
	"aks nodepool update": strings.Fields(`allowed-host-ports asg-ids disable-cluster-autoscaler disable-fips-image disable-secure-boot disable-vtpm enable-cluster-autoscaler enable-fips-image
		enable-secure-boot enable-vtpm if-match if-none-match max-count min-count node-vm-size os-sku scale-down-mode undrainable-node-behavior update-cluster-autoscaler`),
	"aks nodepool upgrade": strings.Fields("aks-custom-headers snapshot-id undrainable-node-behavior"),
	"aks nodepool delete":  strings.Fields("if-match ignore-pdb"),
	"acr create":           strings.Fields("allow-exports allow-metadata-search allow-trusted-services identity key-encryption-key role-assignment-mode workspace zone-redundancy"),
	"acr update":           strings.Fields("add allow-exports allow-metadata-search allow-trusted-services force-string remove role-assignment-mode set"),
	"acr cache create":     {"cred-set"},
	"acr repository list":  strings.Fields("password suffix username"),
	"acr login":            strings.Fields("password suffix username"),
	"network vnet create": strings.Fields(`bgp-community ddos-protection ddos-protection-plan edge-zone enable-encryption encryption-enforcement-policy flowtimeout ipam-allocations
		network-security-group nsg private-endpoint-vnet-policies vm-protection`),
	"network vnet subnet create":      strings.Fields("endpoints ipam-allocations network-identifier nsg-id private-link-service-network-policies service-endpoint-policy service-endpoints disable-private-endpoint-network-policies disable-private-link-service-network-policies"),
	"network vnet subnet update":      strings.Fields("add endpoints force-string remove service-endpoint-policy service-endpoints set private-link-service-network-policies"),
	"network private-endpoint create": strings.Fields("asg edge-zone ip-config nic-name custom-interface-name"),
	"network public-ip create":        strings.Fields(`ddos-protection-mode ddos-protection-plan dns-name-scope edge-zone ip-address ip-tags public-ip-prefix reverse-fqdn tier`),
	"network nat gateway create":      strings.Fields("public-ip-prefixes zone pip-v6 prefix-v6"),
	"network nat gateway update":      strings.Fields("add force-string public-ip-prefixes remove set"),
	"network nic create":              strings.Fields("accelerated-networking application-security-groups asgs app-gateway-address-pools auxiliary-mode auxiliary-sku dns-servers edge-zone gateway-name internal-dns-name lb-address-pools lb-inbound-nat-rules lb-name private-ip-address-version public-ip-address"),
	"network nsg rule create":         strings.Fields("destination-asgs source-asgs"),
	"network vnet peering create":     strings.Fields("enable-only-ipv6 local-subnet-names peer-complete-vnets remote-subnet-names"),
	"identity create":                 strings.Fields("isolation-scope"),
	"role assignment create":          strings.Fields("condition condition-version"),
	"role assignment list":            strings.Fields("fill-principal-name fill-role-definition-name include-classic-administrators"),
	"role definition list":            strings.Fields("custom-role-only"),
	"group create":                    {"managed-by"},
	"group delete":                    {"force-deletion-types"},
	"resource list":                   nil,
	"rest":                            strings.Fields("headers output-file resource skip-authorization-header"),
}
