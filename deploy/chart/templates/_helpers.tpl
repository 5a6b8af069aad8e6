{{- define "lb.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* Labels of an object: those of a part, and where it comes from. */}}
{{- define "lb.metadata" -}}
{{ include "lb.labels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "lb.image" -}}
image: {{ printf "%s/%s:%s" .root.Values.image.registry .name (.root.Values.image.tag | default .root.Chart.AppVersion) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{/* What the restricted Pod Security Standard asks of a Pod. */}}
{{- define "lb.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* And of a container. */}}
{{- define "lb.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The port is named admin. Starting takes long where many Services hold addresses. */}}
{{- define "lb.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 2
  failureThreshold: 150
livenessProbe:
  httpGet: {path: /healthz, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* Where a Pod may run. */}}
{{- define "lb.scheduling" -}}
{{- range $key := list "nodeSelector" "tolerations" "priorityClassName" }}
{{- with index $ $key }}
{{ dict $key . | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{- define "lb.usesTls" -}}
{{- if has .Values.tls.mode (list "generated" "certManager" "secrets") }}yes{{ end }}
{{- end }}

{{- define "lb.samePod" -}}
{{- if eq .Values.tls.mode "samePod" }}yes{{ end }}
{{- end }}

{{- define "lb.allocatorSecret" -}}
{{ .Values.tls.allocatorSecret | default (printf "%s-allocator-tls" .Release.Name) }}
{{- end }}

{{- define "lb.watcherSecret" -}}
{{ .Values.tls.watcherSecret | default (printf "%s-watcher-tls" .Release.Name) }}
{{- end }}

{{/* Names of the allocator in this cluster and for a forwarded port, and those given. A JSON list. */}}
{{- define "lb.dnsNames" -}}
{{- $name := printf "%s-allocator" .Release.Name -}}
{{- $svc := printf "%s.%s.svc" $name .Release.Namespace -}}
{{- $own := list $svc (printf "%s.cluster.local" $svc) (printf "%s.%s" $name .Release.Namespace) $name "localhost" -}}
{{- concat $own .Values.tls.dnsNames | toJson }}
{{- end }}

{{- define "lb.ipAddresses" -}}
{{- concat (list "127.0.0.1" "::1") .Values.tls.ipAddresses | toJson }}
{{- end }}

{{/* Clients that get a certificate, as JSON: Secrets and whom they are for. */}}
{{- define "lb.clients" -}}
{{- $clients := list (dict "secret" (printf "%s-admin-tls" .Release.Name) "who" "role/admin") -}}
{{- if .Values.watcher.enabled -}}
{{- $who := printf "cluster/%s/role/watcher" .Values.cluster -}}
{{- $clients = append $clients (dict "secret" (include "lb.watcherSecret" .) "who" $who) -}}
{{- end -}}
{{- range .Values.tls.clusters -}}
{{- $secret := printf "%s-watcher-tls-%s" $.Release.Name . -}}
{{- $clients = append $clients (dict "secret" $secret "who" (printf "cluster/%s/role/watcher" .)) -}}
{{- end -}}
{{- $clients | toJson }}
{{- end }}

{{/* What the schema cannot say. */}}
{{- define "lb.check" -}}
{{- $mode := .Values.tls.mode -}}
{{- if and .Values.watcher.enabled (not .Values.cluster) -}}
{{- fail "cluster is missing: give this cluster a name, with --set cluster=NAME" -}}
{{- end -}}
{{- if and .Values.tls.clusters (not (has $mode (list "generated" "certManager"))) -}}
{{- fail (printf "tls.clusters is for tls.mode=generated and certManager: with tls.mode=%s nobody makes these certificates" $mode) -}}
{{- end -}}
{{- if .Values.allocator.enabled -}}
{{- if .Values.allocator.address -}}
{{- fail "allocator.address is for an allocator elsewhere, with allocator.enabled=false" -}}
{{- end -}}
{{- if and (eq $mode "samePod") (not .Values.watcher.enabled) -}}
{{- fail "tls.mode=samePod has the watcher in the allocator's Pod: watcher.enabled cannot be false" -}}
{{- end -}}
{{- else -}}
{{- if not .Values.watcher.enabled -}}
{{- fail "allocator.enabled and watcher.enabled are both false: nothing is left to install" -}}
{{- end -}}
{{- if not .Values.allocator.address -}}
{{- fail "allocator.address is missing: where is the allocator? --set allocator.address=https://HOST:PORT" -}}
{{- end -}}
{{- if has $mode (list "generated" "samePod") -}}
{{- fail (printf "tls.mode=%s is not for an allocator elsewhere: copy the certificate that was made for this cluster there, with tls.mode=secrets, or take tls.mode=certManager with tls.issuer" $mode) -}}
{{- end -}}
{{- if and (eq $mode "certManager") (not .Values.tls.issuer) -}}
{{- fail "tls.issuer is missing: the allocator is elsewhere, so the CA has to be one that it knows" -}}
{{- end -}}
{{- $scheme := ternary "http" "https" (eq $mode "none") -}}
{{- if not (hasPrefix (printf "%s://" $scheme) .Values.allocator.address) -}}
{{- fail (printf "with tls.mode=%s, allocator.address begins with %s://" $mode $scheme) -}}
{{- end -}}
{{- end -}}
{{- end }}
