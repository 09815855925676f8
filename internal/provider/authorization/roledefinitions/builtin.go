package roledefinitions

// Role is a built-in role.
type Role struct {
	ID          string // GUID, the same in every tenant
	Name        string
	Description string
	Permission  Permission
}

// Owner and the others are the IDs of roles that Cloister itself assigns.
const (
	Owner                  = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	Contributor            = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	AcrPull                = "7f951dda-4ed3-4680-a7ca-43fe172d538d"
	NetworkContributor     = "4d97b98b-1d4f-4787-a291-c67834d212e7"
	ManagedIdentityOperate = "f1a07417-d97a-45cb-824c-7a7467783830"
)

// BuiltIn are the built-in roles that matter to what Cloister serves, with the permissions that Microsoft
// publishes for them (learn.microsoft.com/azure/role-based-access-control/built-in-roles, as of 2026-11).
func BuiltIn() []Role {
	const (
		registry = "Microsoft.ContainerRegistry/registries/"
		cluster  = "Microsoft.ContainerService/managedClusters/"
		identity = "Microsoft.ManagedIdentity/userAssignedIdentities/"
	)
	// Most service roles come with these.
	usual := func(actions ...string) Permission {
		return Permission{Actions: append(actions,
			"Microsoft.Authorization/*/read", "Microsoft.Insights/alertRules/*", "Microsoft.Resources/deployments/*",
			"Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.Support/*")}
	}
	only := func(actions ...string) Permission { return Permission{Actions: actions} }
	data := func(actions ...string) Permission { return Permission{DataActions: actions} }
	return []Role{
		{Owner, "Owner", "Grants full access to manage all resources, including the ability to assign roles in Azure RBAC.", only("*")},
		{Contributor, "Contributor", "Grants full access to manage all resources, but does not allow you to assign roles in Azure RBAC, manage assignments in Azure Blueprints, or share image galleries.", Permission{
			Actions: []string{"*"},
			NotActions: []string{
				"Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action",
				"Microsoft.Blueprint/blueprintAssignments/write", "Microsoft.Blueprint/blueprintAssignments/delete", "Microsoft.Compute/galleries/share/action",
				"Microsoft.Purview/consents/write", "Microsoft.Purview/consents/delete", "Microsoft.Resources/deploymentStacks/manageDenySetting/action",
				"Microsoft.Subscription/cancel/action", "Microsoft.Subscription/enable/action",
			},
		}},
		{"acdd72a7-3385-48ef-bd42-f606fba81ae7", "Reader", "View all resources, but does not allow you to make any changes.", only("*/read")},
		{"18d7d88d-d35e-4fb5-a5c3-7773c20a72d9", "User Access Administrator", "Lets you manage user access to Azure resources.", only("*/read", "Microsoft.Authorization/*", "Microsoft.Support/*")},
		{"f58310d9-a9f6-439a-9e8d-f62e7b41a168", "Role Based Access Control Administrator", "Manage access to Azure resources by assigning roles using Azure RBAC. This role does not allow you to manage access using other ways, such as Azure Policy.", only("Microsoft.Authorization/roleAssignments/write", "Microsoft.Authorization/roleAssignments/delete", "*/read", "Microsoft.Support/*")},

		{AcrPull, "AcrPull", "acr pull", only(registry + "pull/read")},
		{"8311e382-0749-4cb8-b61a-304f252e45ec", "AcrPush", "acr push", only(registry+"pull/read", registry+"push/write")},
		{"c2f4ef07-c644-48eb-af81-4b1b4947fb11", "AcrDelete", "acr delete", only(registry + "artifacts/delete")},
		{"b93aa761-3e63-49ed-ac28-beffa264f7ac", "Container Registry Repository Reader", "Allows for read access to Azure Container Registry repositories, but excluding catalog listing.", data(registry+"repositories/metadata/read", registry+"repositories/content/read")},
		{"2a1e307c-b015-4ebd-883e-5b7698a07328", "Container Registry Repository Writer", "Allows for read and write access to Azure Container Registry repositories, but excluding catalog listing.", data(registry+"repositories/metadata/read", registry+"repositories/content/read", registry+"repositories/metadata/write", registry+"repositories/content/write")},
		{"2efddaa5-3f1f-4df3-97df-af3f13818f4c", "Container Registry Repository Contributor", "Allows for read, write, and delete access to Azure Container Registry repositories, but excluding catalog listing.", data(registry+"repositories/metadata/read", registry+"repositories/content/read", registry+"repositories/metadata/write", registry+"repositories/content/write", registry+"repositories/metadata/delete", registry+"repositories/content/delete")},
		{"bfdb9389-c9a5-478a-bb2f-ba9ca092c3c7", "Container Registry Repository Catalog Lister", "Allows for listing all repositories in an Azure Container Registry.", data(registry + "catalog/read")},

		{NetworkContributor, "Network Contributor", "Lets you manage networks, but not access to them.", usual("Microsoft.Network/*", "Microsoft.ResourceHealth/availabilityStatuses/read")},
		{"b12aa53e-6015-4669-85d0-8515ebb3ae7f", "Private DNS Zone Contributor", "Lets you manage private DNS zone resources, but not the virtual networks they are linked to.", usual("Microsoft.Network/privateDnsZones/*", "Microsoft.Network/privateDnsOperationResults/*", "Microsoft.Network/privateDnsOperationStatuses/*", "Microsoft.Network/virtualNetworks/read", "Microsoft.Network/virtualNetworks/join/action")},

		{ManagedIdentityOperate, "Managed Identity Operator", "Read and Assign User Assigned Identity", usual(identity+"*/read", identity+"*/assign/action")},
		{"e40ec5ca-96e0-45a2-b4ff-59039f2c2b59", "Managed Identity Contributor", "Create, Read, Update, and Delete User Assigned Identity", usual(identity+"read", identity+"write", identity+"delete", identity+"federatedIdentityCredentials/read", identity+"federatedIdentityCredentials/write", identity+"federatedIdentityCredentials/delete", identity+"revokeTokens/action")},

		{"4abbcc35-e782-43d8-92c5-2d3f1bd2253f", "Azure Kubernetes Service Cluster User Role", "List cluster user credential action.", only(cluster+"listClusterUserCredential/action", cluster+"read")},
		{"0ab0b1a8-8aac-4efd-b8c2-3ee1fb270be8", "Azure Kubernetes Service Cluster Admin Role", "List cluster admin credential action.", only(cluster+"listClusterAdminCredential/action", cluster+"accessProfiles/listCredential/action", cluster+"read", cluster+"runcommand/action")},
		{"ed7f3fbd-7b88-4dd4-9017-9adb7ce333f8", "Azure Kubernetes Service Contributor Role", "Grants access to read and write Azure Kubernetes Service clusters", Permission{
			Actions: []string{
				cluster + "*", "Microsoft.ContainerService/locations/*", "Microsoft.Resources/deployments/*", "Microsoft.Authorization/*/read",
				"Microsoft.Insights/alertRules/*", "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.ResourceHealth/availabilityStatuses/read", "Microsoft.Support/*",
			},
		}},
	}
}
