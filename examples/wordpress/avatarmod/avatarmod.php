<?php
/**
 * Plugin Name:       Avatar moderation
 * Plugin URI:        https://github.com/avatar-moderation/avatar-moderation
 * Description:       Shows the avatar of a user only once avatar-moderation has approved it.
 * Version:           0.1.0
 * Requires at least: 6.1
 * Requires PHP:      7.4
 * License:           Apache-2.0
 * Text Domain:       avatarmod
 * Domain Path:       /languages
 *
 * @package Avatarmod
 */

namespace Avatarmod;

defined( 'ABSPATH' ) || exit;

const PLUGIN_FILE = __FILE__;

require __DIR__ . '/includes/load.php';

register_activation_hook( __FILE__, array( Schedule::class, 'start' ) );
register_deactivation_hook( __FILE__, array( Schedule::class, 'stop' ) );
add_action( 'plugins_loaded', __NAMESPACE__ . '\\start' );
