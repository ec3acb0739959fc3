"""The console's words, in English and Simplified Chinese.

The English sentence is the key, so that a template reads as what it shows; a test asks for every
sentence of the templates in Chinese.
"""

from __future__ import annotations

import dataclasses

LANGUAGES = {"en": "English", "zh-CN": "简体中文"}

#: Reason code -> what it means, for people.
REASONS = {
    "clear": "the model sees nothing explicit",
    "explicit": "the model is sure",
    "gray": "the model is not sure",
    "single_frame": "one frame alone looks explicit",
    "no_provider": "no review provider is configured",
    "provider_uncertain": "the provider could not say",
    "providers_failed": "no provider answered",
    "provider_wait_too_long": "waited too long for a provider",
    "provider_rejected_image": "the provider does not judge this picture",
    "budget_spent": "today's budget is spent",
    "budget_spent_approve_below": "budget spent; below the limit that is approved unseen",
    "overruled": "decided by a person",
    "undone": "a decision was taken back",
    "replayed": "replayed from the dead letters",
    "discarded": "given up by an operator",
    "damaged": "the file is damaged",
    "missing": "there is no file",
    "changed": "replaced by another picture since it was scored",
    "too_large": "the file is too large",
    "too_many_pixels": "too many pixels or frames",
    "unsupported": "not a supported picture format",
    "too_slow": "takes too long to decode",
    "invalid_upload": "the address may not be fetched",
    "private_address": "the address is in a private network",
    "insecure_address": "the address is not https",
    "attempts_exhausted": "failed too often",
    "worker_killed": "killed the worker several times",
}

ZH = {
    # navigation
    "Overview": "概览",
    "Uploads": "上传记录",
    "Review": "人工审核",
    "Dead letters": "死信",
    "Providers": "云审核",
    "Thresholds": "阈值",
    "Activity": "操作记录",
    "Sign out": "退出",
    "Sign in": "登录",
    "Skip to content": "跳到正文",
    "Console": "控制台",
    "Language": "语言",
    "Colours": "外观",
    "Light": "浅色",
    "Dark": "深色",
    "Like the system": "跟随系统",
    # sign-in
    "Name": "用户名",
    "Password": "密码",
    "Name or password is wrong.": "用户名或密码不正确。",
    "Too many tries. Wait {seconds} seconds.": "尝试次数过多，请等待 {seconds} 秒。",
    "The form was too old. Try again.": "表单已过期，请重试。",
    "Your session has ended. Sign in again.": "会话已结束，请重新登录。",
    "Your role does not allow this.": "您的角色没有此权限。",
    "This page was too old. Go back, reload and try again.": "页面已过期，请返回刷新后重试。",
    "Avatars, moderated.": "让每一个头像都经过审核。",
    "Accounts are made with": "创建账号请使用",
    # overview
    "All is well": "一切正常",
    "No alarm stands. {workers} processes are alive.": "没有告警，{workers} 个进程在线。",
    "critical": "严重",
    "warning": "警告",
    "What to do": "处理办法",
    "since": "自",
    "Waiting for the model": "等待模型",
    "With a provider": "云端审核中",
    "Waiting for a person": "等待人工",
    "Decided": "已判定",
    "Gray share": "灰区占比",
    "Time to verdict": "判定耗时",
    "half within": "一半在此时间内",
    "95 % within {value}": "95% 在 {value} 内",
    "Spent today": "今日花费",
    "Saved today": "今日节省",
    "compared with sending everything to the cloud": "与全部送云端审核相比",
    "of {uploads} uploads": "共 {uploads} 次上传",
    "of what the model judged": "占模型判定的图片",
    "at review providers": "云审核服务",
    "Decisions by who made them": "各级判定数量",
    "Gray share over time": "灰区占比变化",
    "Last 24 hours": "最近 24 小时",
    "Last 7 days": "最近 7 天",
    "Last 30 days": "最近 30 天",
    "Period": "时间范围",
    "The ledger is not there yet": "台账尚不可用",
    "Figures over time appear as soon as a worker has written the first events.": (
        "工作进程写入首批事件后，这里会显示统计数据。"
    ),
    "Processes": "进程",
    "role": "角色",
    "process": "进程",
    "memory": "内存",
    "machine": "主机",
    "model": "模型",
    "No process is alive.": "没有进程在线。",
    "Nothing was decided in this period.": "此时段内没有判定记录。",
    # states
    "queued": "排队中",
    "reviewing": "云端审核中",
    "held": "待人工",
    "approved": "通过",
    "blocked": "拦截",
    "rejected": "无效图片",
    "dead": "失败",
    "delivered": "已送达",
    "replayed": "已重放",
    "undo": "撤销",
    "replay": "重放",
    "discard": "丢弃",
    "reset": "重置",
    "accepted": "已接收",
    # tiers
    "cache": "缓存",
    "rule": "规则",
    "review": "云审核",
    "operator": "人工",
    # uploads
    "Search by upload id, start of an id, or sha256": "按上传 ID、ID 前缀或 sha256 搜索",
    "Search": "搜索",
    "State": "状态",
    "All states": "全部状态",
    "Upload": "上传",
    "Probability": "概率",
    "Reason": "原因",
    "Decided by": "判定者",
    "When": "时间",
    "Older": "更早",
    "Newest": "最新",
    "Nothing found": "没有找到",
    "No upload matches. An id is found by its beginning, a hash only whole.": (
        "没有匹配的上传。ID 可按前缀查找，哈希需完整。"
    ),
    "No uploads yet": "还没有上传",
    "Send the first one with POST /v1/uploads or with": "通过 POST /v1/uploads 或以下命令发送：",
    "No upload has this id, or it has expired.": "没有此 ID 的上传，或记录已过期。",
    "There is no picture to show.": "没有可显示的图片。",
    "Pictures cannot be shown by this process.": "此进程无法显示图片。",
    # story
    "Story": "经过",
    "Picture": "图片",
    "Show": "显示",
    "Hide": "隐藏",
    "Blurred until you ask for it": "默认模糊，点击后显示",
    "Score": "得分",
    "approved below {a}, blocked from {b}": "低于 {a} 通过，达到 {b} 拦截",
    "for photos": "照片",
    "for photos; the style made no difference": "照片；画风不影响结论",
    "for drawings": "绘画",
    "The model has not looked at it.": "模型未对其评分。",
    "Region": "地区",
    "Attempts": "尝试次数",
    "Bundle": "模型包",
    "Policy": "策略",
    "Image": "图片位置",
    "Callback": "回调",
    "domestic": "国内",
    "overseas": "海外",
    "Raw score": "原始得分",
    "Views": "视图",
    "Second opinions": "云端意见",
    "Waiting callbacks": "待发送的回调",
    "attempt {n}": "第 {n} 次尝试",
    "Details": "详情",
    "The record has expired; the ledger remembers this.": "记录已过期，以下内容来自台账。",
    "Decide": "判定",
    "A decision sticks to the content: the same bytes get the same answer.": (
        "判定与图片内容绑定：相同内容将得到相同结果。"
    ),
    "by": "由",
    "callback": "回调",
    # review
    "Approve": "通过",
    "Block": "拦截",
    "Next": "下一个",
    "Undo": "撤销",
    "Nobody waits": "没有待审图片",
    "Every picture is decided. New ones appear here as they come.": (
        "所有图片都已判定，新的待审图片会出现在这里。"
    ),
    "{n} wait": "{n} 个待审",
    "Picture {n} of {total}": "第 {n} 个，共 {total} 个",
    "waits since": "等待自",
    "Coming up": "接下来",
    "Keys": "快捷键",
    "approve": "通过",
    "block": "拦截",
    "next": "下一个",
    "show or hide": "显示或隐藏",
    "is now {state}": "现在为“{state}”",
    "Why it is here": "为何在此",
    "Open the whole story": "查看完整经过",
    "Only moderators decide; you may look.": "仅审核员可判定，您可以查看。",
    "This decision is not known.": "未知的判定。",
    # dead letters
    "Stage": "阶段",
    "All stages": "全部阶段",
    "Error contains": "错误包含",
    "Since": "时间",
    "Any time": "不限",
    "last hour": "最近 1 小时",
    "last 24 hours": "最近 24 小时",
    "last 7 days": "最近 7 天",
    "Filter": "筛选",
    "Item": "项目",
    "Error": "错误",
    "Last failure": "最近失败",
    "Select all on this page": "选择本页全部",
    "Replay selected": "重放所选",
    "Discard selected": "丢弃所选",
    "Replay all that match": "重放全部匹配项",
    "No dead letters": "没有死信",
    "Nothing has failed for good.": "没有彻底失败的任务。",
    "Nothing matches this filter.": "没有符合筛选条件的项目。",
    "{done} of {total} replayed; they enter their stage again now.": (
        "已重放 {done}/{total}，将重新进入各自阶段。"
    ),
    "{done} of {total} discarded.": "已丢弃 {done}/{total}。",
    "{n} dead letters": "{n} 条死信",
    "earlier deaths": "次更早的失败",
    "This action is not known.": "未知的操作。",
    "moderate": "模型审核",
    "select {item}": "选择 {item}",
    # providers
    "ready": "可用",
    "paused": "暂停",
    "open": "熔断",
    "probing": "探测中",
    "Calls today": "今日调用",
    "Money today": "今日费用",
    "no limit": "不限",
    "Rate": "速率",
    "{rate} a second, {calls} at a time": "每秒 {rate} 次，同时 {calls} 次",
    "In flight": "进行中",
    "Waiting": "等待中",
    "Latency": "延迟",
    "Last error": "最近错误",
    "Reset breaker": "重置熔断器",
    "{name} is asked again from now on.": "{name} 已恢复调用。",
    "No review provider": "没有云审核服务",
    "Gray pictures wait for a person. Name providers in": "灰区图片由人工判定。配置云审核：",
    "No route names this provider.": "没有路由使用此服务。",
    "until {time}": "直到 {time}",
    "none yet": "暂无",
    # thresholds
    "What the model said": "模型给出的概率",
    "{n} pictures in {days} days; both axes are bent so that the ends are seen": (
        "{days} 天内 {n} 张图片；两轴均非线性，以便看清两端"
    ),
    "Try other cut-offs": "试算其他阈值",
    "Approve below": "低于此值通过",
    "Block from": "达到此值拦截",
    "Compute": "计算",
    "Present": "当前",
    "Proposed": "拟议",
    "gray": "灰区",
    "Gray a day": "每日灰区",
    "Cost a month": "每月费用",
    "{days} days": "{days} 天",
    "1 day": "1 天",
    "Nothing to show yet": "暂无数据",
    "The model has judged no picture in this time.": "此时段内模型没有判定任何图片。",
    "Use numbers from 0 to 1, the first not above the second.": (
        "请使用 0 到 1 之间的数字，前者不大于后者。"
    ),
    "The proposal treats every picture as a photo. Cut-offs are changed in the policy file.": (
        "试算将所有图片视为照片。阈值在策略文件中修改。"
    ),
    "approve, photos": "通过线（照片）",
    "block, photos": "拦截线（照片）",
    "approve, drawings": "通过线（绘画）",
    "block, drawings": "拦截线（绘画）",
    # activity
    "Who": "操作人",
    "Action": "操作",
    "Result": "结果",
    "From": "来源地址",
    "done": "完成",
    "was gone already": "已不存在",
    "Nothing was done yet": "还没有操作",
    "Decisions, replays and resets appear here with who made them.": (
        "判定、重放与重置都会连同操作人记录在此。"
    ),
    # errors, times
    "Something is not right": "出了点问题",
    "Back to the overview": "返回概览",
    "just now": "刚刚",
    "{n} s ago": "{n} 秒前",
    "{n} min ago": "{n} 分钟前",
    "{n} h ago": "{n} 小时前",
    "{n} days ago": "{n} 天前",
    # reasons
    "the model sees nothing explicit": "模型未发现违规内容",
    "the model is sure": "模型确信违规",
    "the model is not sure": "模型无法确定",
    "one frame alone looks explicit": "仅单帧疑似违规",
    "no review provider is configured": "未配置云审核服务",
    "the provider could not say": "云审核无法判断",
    "no provider answered": "云审核均无响应",
    "waited too long for a provider": "等待云审核超时",
    "the provider does not judge this picture": "云审核拒绝此图片",
    "today's budget is spent": "今日预算已用完",
    "budget spent; below the limit that is approved unseen": "预算用完，低于免审上限",
    "decided by a person": "人工判定",
    "a decision was taken back": "判定已撤销",
    "replayed from the dead letters": "从死信重放",
    "given up by an operator": "操作员已放弃",
    "the file is damaged": "文件已损坏",
    "there is no file": "文件不存在",
    "the file is too large": "文件过大",
    "too many pixels or frames": "像素或帧数过多",
    "replaced by another picture since it was scored": "评分后图片已被替换",
    "not a supported picture format": "不支持的图片格式",
    "takes too long to decode": "解码耗时过长",
    "the address may not be fetched": "地址不允许访问",
    "the address is in a private network": "地址在内网",
    "the address is not https": "地址不是 https",
    "failed too often": "失败次数过多",
    "killed the worker several times": "多次导致进程崩溃",
}


#: `operator` the role and `operator` the tier are two words in Chinese.
ROLES_ZH = {"viewer": "观察员", "moderator": "审核员", "operator": "运维"}


@dataclasses.dataclass(frozen=True)
class Translator:
    """Says things in one language."""

    language: str

    def __call__(self, text: str, **values: object) -> str:
        """The sentence in this language, with values put in; English where none is known."""
        found = ZH.get(text, text) if self.language == "zh-CN" else text
        return found.format(**values) if values else found

    def reason(self, code: str) -> str:
        """What a reason code means; an unknown one, such as a provider's label, as it is."""
        if code.startswith("flat: "):
            return f"{self('rule')}: {code.removeprefix('flat: ')}"
        return self(REASONS[code]) if code in REASONS else code

    def role(self, name: str) -> str:
        """What a person may do, in one word."""
        return ROLES_ZH.get(name, name) if self.language == "zh-CN" else name

    def tier(self, decided_by: str) -> str:
        """Who decided, such as `model` or `operator:ann`."""
        tier, _, name = decided_by.partition(":")
        return f"{self(tier)}: {name}" if name else self(tier)

    def ago(self, seconds: float) -> str:
        """How long ago, in the largest whole unit."""
        if seconds < 5:
            return self("just now")
        for limit, size, text in (
            (60, 1, "{n} s ago"),
            (3600, 60, "{n} min ago"),
            (2 * 86400, 3600, "{n} h ago"),
        ):
            if seconds < limit:
                return self(text, n=int(seconds / size))
        return self("{n} days ago", n=int(seconds / 86400))

    def span(self, seconds: float | None) -> str:
        """A length of time."""
        if seconds is None:
            return "–"
        if seconds < 1:
            return f"{seconds * 1000:.0f} ms"
        if seconds < 120:
            return f"{seconds:.1f} s"
        return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
