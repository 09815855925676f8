package azcli

// API versions that az 2.74 sends, by resource type.
const (
	resourcesAPI   = "2024-11-01"
	networkAPI     = "2024-05-01"
	subnetAPI      = "2024-01-01"
	nicAPI         = "2023-11-01"
	endpointAPI    = "2022-01-01"
	dnsAPI         = "2018-09-01"
	linkAPI        = "2024-06-01"
	registryAPI    = "2025-03-01-preview"
	cacheAPI       = "2023-01-01-preview"
	identityAPI    = "2023-01-31"
	assignmentAPI  = "2022-04-01"
	definitionAPI  = "2022-05-01-preview"
	featuresAPI    = "2021-07-01"
	aksAPI         = "2025-03-01"
	subscriptionsA = "2022-12-01"
)

// commands are all commands there are.
func commands() []command {
	var all []command
	for _, part := range [][]command{resourceCommands(), networkCommands(), dnsCommands(), registryCommands(), identityCommands(), aksCommands()} {
		all = append(all, part...)
	}
	return all
}
