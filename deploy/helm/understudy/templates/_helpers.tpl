{{- define "u.labels" -}}
app.kubernetes.io/name: understudy
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "u.select" -}}
app.kubernetes.io/name: understudy
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "u.flow" -}}
{app.kubernetes.io/name: understudy, app.kubernetes.io/instance: {{ .root.Release.Name }}, app.kubernetes.io/component: {{ .component }}}
{{- end }}

{{- define "u.name" -}}
{{- if contains "understudy" .Release.Name }}{{ .Release.Name }}{{ else }}{{ printf "%s-understudy" .Release.Name | trunc 40 }}{{ end }}
{{- end }}

{{- define "u.image" -}}
{{ printf "%s:%s" .repository (toString .tag) }}
{{- end }}

{{- define "u.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "u.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "u.redisUrl" -}}
{{- if .Values.redis.enabled -}}
redis://:$(REDIS_PASSWORD)@{{ include "u.name" . }}-redis:6379/0
{{- else -}}
{{ required "redis.url is needed when redis.enabled is false" .Values.redis.url }}
{{- end -}}
{{- end }}

{{- define "u.cloudConfig" -}}
{{- $own := dict
  "state_dir" "/var/lib/understudy/cloud"
  "gateway" (dict "address" "0.0.0.0:7443" "enroll_address" "0.0.0.0:7444"
    "wait_for_teacher" false
    "names" (concat (list "localhost" (printf "%s-gateway" (include "u.name" .))) .Values.gateway.hosts))
  "log" (dict "backend" "redis" "url" "${UNDERSTUDY_REDIS}")
  "operator" (dict "address" "0.0.0.0:7480" "token" "${UNDERSTUDY_OPERATOR_TOKEN:-}") -}}
{{- /* An unset variable must become an empty text and not YAML's null: hence the quotes. */ -}}
{{- $bare := "token: ${UNDERSTUDY_OPERATOR_TOKEN:-}" -}}
{{- $quoted := "token: \"${UNDERSTUDY_OPERATOR_TOKEN:-}\"" -}}
{{- toYaml (mergeOverwrite $own (deepCopy .Values.cloud)) | replace $bare $quoted }}
{{- end }}

{{- define "u.edgeConfig" -}}
{{- $own := dict
  "task" .Values.edgeNodes.task
  "state_dir" "/var/lib/understudy/edge"
  "gateway" (dict "address" (printf "%s-gateway:7443" (include "u.name" .))
    "tls" (dict "ca" "/var/lib/understudy/node/ca.pem" "certificate" "/var/lib/understudy/node/node.pem" "key" "/var/lib/understudy/node/node-key.pem"))
  "updater" (dict "trusted_root" "/var/lib/understudy/node/root.json")
  "sidecar" (dict "host" "0.0.0.0" "http_port" 8090 "grpc_port" 8091) -}}
{{- toYaml (mergeOverwrite $own (deepCopy .Values.edge)) }}
{{- end }}

{{- define "u.cloudEnv" -}}
- {name: HOME, value: /var/lib/understudy}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .Values.secretName }}, key: redis-password}}
- {name: UNDERSTUDY_REDIS, value: {{ include "u.redisUrl" . | quote }}}
{{- end }}

{{- define "u.affinityToGateway" -}}
{{- if eq .Values.persistence.accessMode "ReadWriteOnce" }}
# A ReadWriteOnce volume can only be shared by pods of one machine.
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "u.select" (dict "root" . "component" "gateway") | nindent 12 }}
{{- end }}
{{- end }}
